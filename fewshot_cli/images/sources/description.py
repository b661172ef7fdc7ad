"""A data set as its source describes it, before its split is taken."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored

Groups = Mapping[str, Sequence[str]]  # names of classes under the name of the group


@dataclass(frozen=True)
class FoundDataset:
    """A data set before its split is taken and the files beside it are read; everything goes by the classes' names.

    `pictures` gives those of a class in order. `splits` is None where a file beside it may say them. `parts` read
    its splits, by name, where it lies in folders of them: one of them is what to read. `loose` are images outside of
    any class, and `left_out` counts by name what is passed over, see images/sources/leftovers.py.
    """

    name: str
    root: Path
    classes: Sequence[str]
    pictures: Callable[[str], Sequence[Stored]]
    nodes: Groups = field(default_factory=dict)
    superclasses: Groups = field(default_factory=dict)
    splits: Groups | None = None
    usual_split: str | None = None
    parts: Mapping[str, Callable[[], "FoundDataset"]] = field(default_factory=dict)
    loose: tuple[Path, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    several: bool = False
    is_fixed_split: bool = False
    """Whether its parts say which images are learned from and which are asked about; its classes are in order."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises FewshotError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FewshotError(f"{path} can't be read: {error.strerror}.", "Check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise FewshotError(f"{path} is not JSON: {error}.", "Correct it, or write it anew.") from None
    if not isinstance(content, dict):
        raise FewshotError(f"{path} is not a JSON object.", 'It begins with "{" and ends with "}".')
    return content


def some(names: Sequence[str]) -> str:
    """The first five, for a message."""
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
