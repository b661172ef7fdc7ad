"""Which names timm's files define, read as text: importing timm takes seconds, and telling a misspelt name need not."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from fewshot_cli.errors import FewshotError

DEFINED = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)


def check_spelling(name: str) -> None:
    """Raises FewshotError with the nearest names where timm's files nowhere have this one, as a model or as a text.

    timm itself is asked later; where its files can't be read, nothing is said.
    """
    texts = _texts()
    architecture = name.partition(".")[0]
    defined = {model for text in texts for model in DEFINED.findall(text)}
    quoted = re.compile(rf"(['\"]){re.escape(architecture)}\1")
    if architecture in defined or (architecture and any(quoted.search(text) for text in texts)):
        return
    if texts:
        raise unknown(name, sorted(defined))


def unknown(name: str, known: Iterable[str]) -> FewshotError:
    """What to say of a name that is none of timm's, which are `known`."""
    near = get_close_matches(name.partition(".")[0], list(known), n=3)
    return FewshotError(
        f"timm has no model called '{name}'.",
        f"Did you mean {' or '.join(near)}? " * bool(near) + "`fewshot backbones PATTERN` lists what there is.",
    )


def _texts() -> list[str]:
    found = find_spec("timm")
    places = (found and found.submodule_search_locations) or ()
    try:
        return [path.read_text(encoding="utf-8") for place in places for path in Path(place, "models").glob("*.py")]
    except (OSError, UnicodeDecodeError):
        return []
