"""The result of `eval` of a file on a folder of labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fewshot_cli.results.base import ExpectedAccuracy, Result, Skipped


@dataclass(frozen=True)
class ClassAccuracy:
    """How many images of a class were asked about, and the share answered right."""

    n: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class EvalResult(Result):
    """How good a classifier is on labelled images, with the 95 % interval of its accuracy."""

    command: ClassVar[str] = "eval"
    file: str
    sha256: str
    folder: str
    backbone: str
    method: str | None
    transductive: bool
    classes: tuple[str, ...]
    images: int
    skipped: tuple[Skipped, ...]
    accuracy: float
    low: float
    high: float
    n: int
    learned_from: int
    """How many of the images the classifier was learned from."""
    balanced_accuracy: float
    per_class: Mapping[str, ClassAccuracy]
    confusion: tuple[tuple[int, ...], ...]
    """Of each true class, how often each class was the answer."""
    ece: float
    """Expected calibration error: how far probabilities are off on average."""
    expected_accuracy: ExpectedAccuracy
    data: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RecordedEvalResult(EvalResult):
    """The same, and the file that keeps it; None where it could not be written."""

    record: str | None
