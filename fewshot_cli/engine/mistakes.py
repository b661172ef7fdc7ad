"""What pydantic found wrong, a mistake for each setting, without pydantic's own names for the types it tried."""

import re
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Any

_TRIED = re.compile(r"(constrained-|literal\[|function-|nullable|list\[|tuple\[|dict\[).*|int|float|str|bool|none")
"""What pydantic puts into a path for each type of a union that it tried."""


def merged(errors: Sequence[Any]) -> list[dict[str, Any]]:
    """The errors of a ValidationError with paths of settings only; those of one setting's types are one, with "or"."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for error in errors:
        error = dict(error) | {"msg": error["msg"].removeprefix("Input ")}
        path = tuple(part for part in error["loc"] if not (isinstance(part, str) and _TRIED.fullmatch(part)))
        if path == tuple(error["loc"]):
            found.setdefault((*path, error["type"]), dict(error))
        elif (*path, "union") in found:
            known = found[*path, "union"]
            known["msg"] += f", or {error['msg'].removeprefix('should be ')}"
        else:
            found[*path, "union"] = error | {"loc": path}
    return list(found.values())


def in_words(item: Any, by_option: Collection[str], methods: Sequence[str]) -> str:
    """What is wrong with one setting, beginning with its dotted path, or the option if it is `by_option`.

    `methods` are the names that `method.name` can have.
    """
    location = [str(part) for part in item["loc"]]
    for section in (["method", "masks"], ["training", "protocol"], ["training", "sampler"]):
        at = len(section)
        if location[:at] == section and len(location) > at:
            del location[at]  # pydantic puts the name of what it took there, which is no part of the path
    path = f"--{location[0].replace('_', '-')}" if location[:1] and location[0] in by_option else ".".join(location)
    given = item["input"]
    if item["type"] == "extra_forbidden":
        return f"{path}: there is no such setting"
    if item["type"] == "two_heads":
        return f"head: {item['msg']}"
    if item["type"] == "nothing_said" or (item["type"] == "missing" and path == "method"):
        return f"method.name: is missing; there are {', '.join(methods)}"
    if item["type"] == "union_tag_not_found":
        return f"{path}.name: is missing" + f"; there are {', '.join(methods)}" * (path == "method")
    if item["type"] == "union_tag_invalid" and path == "method":
        near = get_close_matches(item["ctx"]["tag"], methods, n=3)
        rest = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(methods)}"
        return f"method.name: {given['name']!r} is not a method; {rest}"
    if item["type"] == "union_tag_invalid":
        return f"{path}.name: {given['name']!r} is none of {item['ctx']['expected_tags']}"
    if path in ("method", "head") and isinstance(given, str):
        return f"{path}: is a section, not a value; write {{name: {given}}}"
    if item["type"] == "missing":
        return f"{path}: is missing"
    said = "" if isinstance(given, dict) else f" (given: {given!r})"
    return f"{path}: {item['msg'].removeprefix('Value error, ')}{said}"
