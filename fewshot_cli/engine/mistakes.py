"""What pydantic found wrong, a mistake for each setting, without pydantic's own names for the types it tried."""

import re
from collections.abc import Sequence
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
