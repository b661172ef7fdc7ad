"""Results where an image may have several labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, ExpectedAccuracy, Result, Skipped


@dataclass(frozen=True)
class OfLabel:
    """Of one class, where an image may have several: how many images have it, and how well these are found.

    Precision is None where no image gets the label, recall where none has it, F1 where both is so. `threshold` is the
    probability above which an image gets it, where that was learned just now.
    """

    n: int
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float | None = field(default=None, metadata=LEFT_OUT_IF_NONE)


@dataclass(frozen=True)
class SeveralLabels:
    """What is expected where an image may have several labels, by class, and the mean F1 of all classes."""

    macro_f1: float
    per_class: Mapping[str, OfLabel]


@dataclass(frozen=True, kw_only=True)
class LabelSetsResult(Result):
    """How good a classifier of several labels an image is: accuracy is exact match, with its 95 % interval."""

    command: ClassVar[str] = "eval"
    file: str
    sha256: str
    folder: str
    backbone: str
    method: str | None
    classes: tuple[str, ...]
    images: int
    skipped: tuple[Skipped, ...]
    accuracy: float
    low: float
    high: float
    n: int
    learned_from: int
    macro_f1: float
    """The mean F1 of the classes that some image has or gets."""
    per_class: Mapping[str, OfLabel]
    expected_accuracy: ExpectedAccuracy
    data: str
    versions: Mapping[str, str]
    record: str | None = None
    seconds: Mapping[str, float]
