"""The result of `adapt`: what was learned, from which images, and what to expect of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, ExpectedAccuracy, ForetoldAccuracy, Result, Skipped
from fewshot_cli.results.choose import Candidate
from fewshot_cli.results.several_labels import SeveralLabels


@dataclass(frozen=True)
class ClassSize:
    """How many images of a class were learned from."""

    n: int


@dataclass(frozen=True)
class Doubt:
    """An image whose label is likely wrong, with what probability, and which other class it is most likely of."""

    path: str
    label: str
    probably: str
    probability: float


@dataclass(frozen=True)
class GraftSites:
    """The kind of graft, and the modules of the backbone that it hangs on."""

    kind: str
    sites: tuple[str, ...]


@dataclass(frozen=True)
class BegunFrom:
    """The bank that adapting began from, and the digest of its content."""

    file: str | None
    digest: str


@dataclass(frozen=True)
class Pruning:
    """The share of weights moved and the accuracy to expect, with the bank pruned and without."""

    density: float
    density_before: float
    accuracy: float | None
    accuracy_before: float | None


@dataclass(frozen=True)
class RoundingCost:
    """What it costs to keep numbers as `stored`: logits move by `max_abs_diff` at most, `top1_agreement` is the share
    of the support images that are answered as before. The accuracies are held out, where they are known."""

    stored: str
    head: str
    max_abs_diff: float
    top1_agreement: float
    accuracy: float | None = None
    accuracy_before: float | None = None


@dataclass(frozen=True, kw_only=True)
class AdaptResult(Result):
    """What was learned from which images, what accuracy to expect, and the file that holds it."""

    command: ClassVar[str] = "adapt"
    seed: int
    backbone: str
    method: str
    head: str | None
    """The head that took the place of the one trained along, if one did."""
    classes: tuple[str, ...]
    images: int
    per_class: Mapping[str, ClassSize]
    skipped: tuple[Skipped, ...]
    left_out: Mapping[str, int]
    """By name, how many files and folders that programs leave among images were passed over."""
    folder: str | None
    """None where the images came from memory."""
    file: str | None
    """None where the classifier was not saved yet."""
    bytes: int
    graft: GraftSites | None
    support_bytes: int | None
    transductive: bool
    density: float
    """The share of the backbone's weights that moved."""
    bank: BegunFrom | None
    pruning: Pruning | None
    seconds: Mapping[str, float]
    expected_accuracy: ExpectedAccuracy
    doubts: tuple[Doubt, ...]
    """The images whose labels are likely wrong, the likeliest first."""
    max_abs_diff: float
    values: RoundingCost
    device: str
    recipe: Mapping[str, Any]
    data: str
    """The SHA-256 of labels and contents."""
    versions: Mapping[str, str]
    expected_with_more: ForetoldAccuracy | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    labels: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """How names of classes with a + were read, where there are such."""
    several_labels: SeveralLabels | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Where an image may have several labels; `expected_accuracy` is then of exact match."""
    candidates: tuple[Candidate, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """What the recipe was chosen from, where none was given."""
    advice: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Whether training would pay, in a sentence, where the recipe was chosen."""
