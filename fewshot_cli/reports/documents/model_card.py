"""The model card: what a delta file or a bank is, for those who find it on the Hugging Face hub, as Markdown.

Everything that a file says is foreign text: it is escaped, quoted for the shell, or dumped as YAML.
"""

import hashlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote, unquote

from fewshot_cli.reports.as_yaml import as_yaml
from fewshot_cli.reports.documents.results_table import escaped
from fewshot_cli.reports.layout import interval, percent, prepared, size
from fewshot_cli.reports.licences import is_timms_word, licence_metadata, meaning
from fewshot_cli.reports.printable import printable
from fewshot_cli.reports.terminal import bank
from fewshot_cli.reports.terminal.lineage import ancestors, base_line, name_and_facts
from fewshot_cli.results import Ancestor, AnyInspected, InspectBankResult

HERE = Path(__file__).parent
SOMEWHERE = "OWNER/NAME"
"""In the place of a repository, while there is none."""
_SIGNATURE = re.compile(r"<!-- fewshot card of (\S*), (\w{64}) -->\n$")


def card(
    result: AnyInspected, hub_id: str | None = None, timms_licence: str = "unknown", repository: str = SOMEWHERE
) -> str:
    """The card of what `inspect` found. `hub_id` is where the hub has the base's weights, if it has them."""
    from jinja2 import Environment, StrictUndefined

    result = printable(result)
    name = PurePath(result.file).name
    thing = "bank" if isinstance(result, InspectBankResult) else "classifier"
    cards = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    cards.filters.update(md=escaped, code=code, percent=percent, size=size)
    text = cards.from_string((HERE / "card.md.j2").read_text(encoding="utf-8")).render(
        front=as_yaml(front_matter(result, name, hub_id)) + "\n",
        report=result,
        name=name,
        thing=thing,
        is_timms=is_timms_word(result.licence),
        licence=meaning(result.licence, thing, timms_licence),
        bank=bank,
        interval=interval,
        prepared=prepared,
        recipe=fenced(as_yaml(result.recipe) + "\n", "yaml"),
        use=fenced("\n".join(commands(result, name, repository)), "bash"),
        chain="\n".join(chain_lines(result.chain)),
        chain_base=base_line(result.chain),
    )
    return text + f"<!-- fewshot card of {quote(name)}, {_hash(text)} -->\n"


def subject(text: str) -> str | None:
    """The name of the file that a card is about, if `card` made it and nobody has changed it since; else None."""
    text = text.replace("\r\n", "\n")
    found = _SIGNATURE.search(text)
    return unquote(found[1]) if found and found[2] == _hash(text[: found.start()]) else None


def front_matter(result: AnyInspected, name: str, hub_id: str | None) -> dict[str, Any]:
    """What the hub files the card under. The base is named only where its weights are known to be the hub's."""
    known = hub_id is not None and is_timms_word(result.licence)
    tags = [
        "fewshot",
        "few-shot-learning",
        *(["clip", "open_clip"] if result.towers else ["timm"]),
        *(["meta-learning"] if isinstance(result, InspectBankResult) else []),
    ]
    return {
        **licence_metadata(result.licence),
        "library_name": "fewshot",
        "pipeline_tag": "image-classification",
        **({"base_model": hub_id, "base_model_relation": "adapter"} if known else {}),
        "tags": tags,
        **_model_index(result, name),
    }


def _model_index(result: AnyInspected, name: str) -> dict[str, Any]:
    """What was measured, as the hub lists it; nothing where nothing was."""
    if isinstance(result, InspectBankResult):
        what = "mean accuracy on held-out tasks"
        measured = {f"{data} (held-out tasks)": accuracy for data, accuracy in result.validation.items()}
    else:
        expected = result.expected_accuracy
        what = f"accuracy, estimated: {expected.how}"
        measured = {"its own images, each held out": expected.mean} if expected.mean is not None else {}
    if not measured:
        return {}
    task = {"type": "image-classification", "name": "Image Classification"}
    results = [
        {
            "task": task.copy(),  # or else YAML writes a reference to the first
            "dataset": {"type": "imagefolder", "name": data},
            "metrics": [{"type": "accuracy", "name": what, "value": accuracy}],
        }
        for data, accuracy in measured.items()
    ]
    return {"model-index": [{"name": name, "results": results}]}


def commands(result: AnyInspected, name: str, repository: str) -> list[str]:
    """How to get the file and use it, as lines for a shell."""
    file = shlex.quote(name)
    weights = "" if is_timms_word(result.licence) else " --weights FILE"
    use = (
        f"fewshot adapt photos/ --bank {file} -o my.fewshot{weights}"
        if isinstance(result, InspectBankResult)
        else f"fewshot predict {file} photos/{weights}"
    )
    package = "'fewshot-cli[clip]'" if result.towers and result.towers.needs_open_clip else "fewshot-cli"
    return [f"pip install {package}", f"fewshot pull {repository} --file {file}", use]


def chain_lines(link: Ancestor, depth: int = 0) -> Iterator[str]:
    """The chain as a nested list, the file itself first."""
    name, facts = name_and_facts(link)
    yield f"{'  ' * depth}* **{escaped(name)}** {escaped(facts)}"
    for older in ancestors(link):
        yield from chain_lines(older, depth + 1)


def code(text: str) -> str:
    """The text in one line, letter by letter, as code."""
    text = " ".join(text.split())
    ticks = "`" * (_longest_ticks(text) + 1)
    pad = " " if text[:1] == "`" or text[-1:] == "`" else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fenced(text: str, language: str) -> str:
    """The text as a block of code that it can't end itself."""
    ticks = "`" * max(3, _longest_ticks(text) + 1)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()
