"""The result of `eval` of a file on a folder of labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, ExpectedAccuracy, Result, Skipped


@dataclass(frozen=True)
class ClassAccuracy:
    """How many images of a class were asked about, and the share answered right."""

    n: int
    accuracy: float


@dataclass(frozen=True)
class KeptPromise:
    """A share of `n` pictures with its 95 % interval, and the share that was promised, where one was."""

    promised: float | None
    share: float
    low: float
    high: float
    n: int


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
    refused: KeptPromise | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """With `--refuse`, the share of pictures of the classes that is refused."""
    refused_unknown: KeptPromise | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """And that of pictures in `_unknown/`, if there are any."""
    covered: KeptPromise | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """With `--sets`, how often a set of labels holds the true one."""
    set_size: float | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """How many labels a set has on average."""
    data: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class RecordedEvalResult(EvalResult):
    """The same, and the file that keeps it; None where it could not be written."""

    record: str | None
