"""What every result has: fields with names and types, of which `--json` is a view."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from fewshot_cli import __version__

LEFT_OUT_IF_NONE = {"left_out_if_none": True}
"""Of a field that has no key in JSON where there is nothing to say."""


def called(key: str) -> dict[str, str]:
    """Of a field whose key in JSON is a word that Python keeps for itself."""
    return {"key": key}


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command found or did. `report()` has it under the keys that `--json` prints."""

    command: ClassVar[str]
    version: str = __version__

    def report(self) -> dict[str, Any]:
        """The result as JSON takes it: dictionaries, lists, texts and numbers."""
        return {"command": self.command, **plain(self)}


def plain(found: Any) -> Any:
    """The same in dictionaries and lists; a path becomes its text."""
    if is_dataclass(found) and not isinstance(found, type):
        values = [(each, getattr(found, each.name)) for each in fields(found)]
        return {
            each.metadata.get("key", each.name): plain(value)
            for each, value in values
            if not (value is None and each.metadata.get("left_out_if_none"))
        }
    if isinstance(found, Mapping):
        return {key: plain(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [plain(value) for value in found]
    return str(found) if isinstance(found, Path) else found


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ExpectedAccuracy:
    """The accuracy to expect on new images, with its 95 % interval; all None where it can't be known, as `how` says."""

    mean: float | None
    low: float | None
    high: float | None
    how: str


@dataclass(frozen=True)
class ForetoldAccuracy:
    """The accuracy to expect with `more` more images of each class, and its 95 % interval."""

    more: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class StoredAs:
    """How a file keeps its numbers: those of the changes, and those of the head."""

    stored: str
    head: str
