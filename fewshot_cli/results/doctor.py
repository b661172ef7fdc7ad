"""The result of `doctor`: which images need a look, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, Result, called


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image, and what to do about it."""

    path: str
    label: str | None = field(metadata=called("class"))
    kind: str
    severity: str
    problem: str
    remedy: str
    other: str | None
    """The image that it is a copy of."""


@dataclass(frozen=True)
class Neighbour:
    """An image that looks like another: the cosine of their features around the mean of all."""

    path: str
    label: str = field(metadata=called("class"))
    cosine: float


@dataclass(frozen=True)
class Suspect:
    """What held-out answers say against images: `kind` is label, classes, hurts or burst."""

    kind: str
    paths: tuple[str, ...]
    classes: tuple[str, ...]
    """That they are in; of a wrong label its class, and then the one it is most likely of."""
    probability: float | None
    """That a label is wrong."""
    problem: str
    remedy: str
    neighbours: tuple[Neighbour, ...]
    """The images that look most like the first of `paths`."""


@dataclass(frozen=True, kw_only=True)
class DoctorResult(Result):
    """Every image of a folder that needs a look."""

    command: ClassVar[str] = "doctor"
    folder: str
    classes: tuple[str, ...]
    images: int
    left_out: Mapping[str, int]
    counts: Mapping[str, int]
    findings: tuple[Problem, ...]
    learned: tuple[Suspect, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """What learning from the images says of them, where that was asked for."""
    labels: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """How names of classes with a + are read, where there are such."""
    not_learned: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Why nothing could be learned from them."""
