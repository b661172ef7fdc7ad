"""The protocols that options, or the record of a run, ask for; mistakes are told by the options that make them."""

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fewshot_cli.engine.data.episode_samplers import AnyProtocol
from fewshot_cli.engine.mistakes import merged
from fewshot_cli.errors import FewshotError

OPTIONS = ("way", "shots", "queries", "base_way", "sessions")
"""The settings of protocols that have options of their own."""


def protocols(facts: dict[str, Any]) -> tuple[AnyProtocol, ...]:
    """The protocols that the facts describe: one for each number of shots. Raises FewshotError that lists mistakes."""
    shots = facts.get("shots")
    many = [facts | {"shots": number} for number in shots] if isinstance(shots, list) else [facts]
    try:
        return tuple(TypeAdapter(AnyProtocol).validate_python(each) for each in many)
    except ValidationError as error:
        mistakes = "\n".join(f"  {_mistake(item)}" for item in merged(error.errors()))
        raise FewshotError(
            f"The protocol {facts.get('name')} can't be so:\n{mistakes}",
            "`fewshot eval --help` lists the options; --set protocol.NAME=VALUE sets the others.",
        ) from None


def _mistake(item: Mapping[str, Any]) -> str:
    """A mistake in a protocol, with the option that sets what is wrong."""
    _, *path = item["loc"] or (None,)
    if item["type"] == "union_tag_invalid":
        return f"--protocol: there is none of that name; there are {item['ctx']['expected_tags']}"
    if not path:
        return str(item["msg"]).removeprefix("Value error, ")
    first, *rest = map(str, path)
    option = f"--{first.replace('_', '-')}" if first in OPTIONS else f"--set protocol.{first}"
    called = ".".join([option, *rest])
    if item["type"] == "extra_forbidden":
        return f"{called}: this protocol has no such setting"
    return f"{called}: {item['msg'].removeprefix('Value error, ')} (given: {item['input']!r})"
