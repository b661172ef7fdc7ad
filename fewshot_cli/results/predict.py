"""The result of `predict`: answers about images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, Result


@dataclass(frozen=True)
class Prediction:
    """The answer about one image: its likeliest class, the probability, the next likely; or why there is none."""

    path: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    error: str | None
    file: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """The delta file that answers, where several do."""
    probabilities: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Of every class, where they were asked for."""
    copy: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Where the image was copied to, where images are sorted into folders."""
    labels: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """All labels, where there may be several: `label` joins them by +, and `probability` is that of just these.

    With `--sets` the labels that the true one is among, the likeliest first; none where the picture is refused.
    """


@dataclass(frozen=True)
class SortedInto:
    """A folder with a folder for each class, and how many images were copied there; `there` were there already."""

    folder: str
    copied: Mapping[str, int]
    there: int


@dataclass(frozen=True)
class ClassifierFile:
    """One of several delta files that answer, and its classes."""

    file: str
    classes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PredictResult(Result):
    """Answers about images; `predictions` is None where they went somewhere else as they came."""

    command: ClassVar[str] = "predict"
    file: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    backbone: str
    classes: tuple[str, ...]
    images: int
    unread: int
    transductive: bool
    predictions: tuple[Prediction, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    files: tuple[ClassifierFile, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    sorted_into: SortedInto | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    unknown: float | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """The share of the pictures that is of none of the classes, where that may be said."""
    coverage: float | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """With what probability a set of labels holds the true one."""
    coverage_by_class: bool | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Whether that is so in each class by itself, or only in all together."""
    seconds: Mapping[str, float]

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions or ())

    def __len__(self) -> int:
        return len(self.predictions or ())

    def __getitem__(self, place: int) -> Prediction:
        return (self.predictions or ())[place]
