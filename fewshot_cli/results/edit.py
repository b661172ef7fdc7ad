"""The results of what changes a classifier's classes and labels, and of what asks for the next ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, ExpectedAccuracy, Result, Skipped, called


@dataclass(frozen=True)
class ComesFrom:
    """The delta file that was changed, and the digest of its content."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class OldClasses:
    """The held-out accuracy on `n` images of the classes there were before, without the change and with it."""

    n: int
    before: Share
    after: Share


@dataclass(frozen=True, kw_only=True)
class EditResult(Result):
    """What became of a classifier. The accuracies are those of the old classes, None where they can't be known."""

    seed: int
    backbone: str
    method: str | None
    classes: tuple[str, ...]
    classes_before: tuple[str, ...]
    images: int
    file: str
    bytes: int
    comes_from: ComesFrom = field(metadata=called("from"))
    in_place: bool
    expected_accuracy: ExpectedAccuracy
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    old: OldClasses | None = None
    data: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AddClassResult(EditResult):
    """How many images of each new class were added, and how many more of each old one.

    Without a `folder` a class was added by its name alone, of which `texts` were read.
    """

    command: ClassVar[str] = "add-class"
    folder: str | None
    added: Mapping[str, int]
    more: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    texts: Mapping[str, tuple[str, ...]] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """By new class, what the text tower of the backbone was told, where that makes the class."""


@dataclass(frozen=True, kw_only=True)
class RemoveClassResult(EditResult):
    """How many images of which class were forgotten; none, where it was known by its name alone."""

    command: ClassVar[str] = "remove-class"
    removed: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class RenameClassResult(EditResult):
    """The new name by the old one."""

    command: ClassVar[str] = "rename-class"
    renamed: Mapping[str, str]


@dataclass(frozen=True)
class Corrected:
    """A picture that had another label."""

    path: str
    before: str = field(metadata=called("was"))
    after: str = field(metadata=called("is"))


@dataclass(frozen=True, kw_only=True)
class CorrectResult(EditResult):
    """The pictures whose label changed, and how many new ones were learned from."""

    command: ClassVar[str] = "correct"
    list: str
    corrected: tuple[Corrected, ...]
    learned: int
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class ToLabel:
    """A picture whose label would teach: what the classifier makes of it, what a label is worth beside the first one's,
    and how many others follow it."""

    path: str
    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    worth: float
    alike: int


@dataclass(frozen=True, kw_only=True)
class NextResult(Result):
    """The pictures to label next, of `images` without a label; `known` are learned from already, or copies."""

    command: ClassVar[str] = "next"
    file: str
    folder: str
    backbone: str
    classes: tuple[str, ...]
    images: int
    known: int
    skipped: tuple[Skipped, ...]
    pictures: tuple[ToLabel, ...]
    list: str | None = None
    """Where they were written to be filled in."""
    seconds: Mapping[str, float]
