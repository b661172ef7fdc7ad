"""The results of `verify`, `compose`, `push` and `pull`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, ExpectedAccuracy, Result, called


@dataclass(frozen=True, kw_only=True)
class VerifyResult(Result):
    """What was checked of a delta file, by name, and what each check found; all of it holds."""

    command: ClassVar[str] = "verify"
    file: str
    backbone: str
    checks: Mapping[str, str]


@dataclass(frozen=True)
class ComposedAs:
    """How a composed file keeps its numbers, and whether rounding changed none of them."""

    stored: str
    head: str
    exact: bool


@dataclass(frozen=True)
class SharedClass:
    """A class that several files know, and the lowest cosine between their rows of the head."""

    name: str = field(metadata=called("class"))
    files: tuple[str, ...]
    cosine: float


@dataclass(frozen=True)
class ComposedFile:
    """A file that was composed: `density` is the share of weights it changes, `survival` what is left of its change,
    and `head_factor` what its rows of the head were multiplied by."""

    file: str
    sha256: str
    method: str | None
    classes: tuple[str, ...]
    bank: str | None
    density: float
    survival: float
    head_factor: float


@dataclass(frozen=True)
class Disagreement:
    """A parameter that several files change: the share of signs that agree, and that of the change that cancels."""

    parameter: str
    changed_by_several: int
    signs_agree: float
    cancelled: float


@dataclass(frozen=True)
class MergedWeights:
    """How many weights one file or several change, how far these agree, and the parameters where least."""

    changed_by_one: int
    changed_by_several: int
    signs_agree: float | None
    cancelled: float
    disagreements: tuple[Disagreement, ...]


@dataclass(frozen=True, kw_only=True)
class ComposeResult(Result):
    """The classifier that several were composed to, and where these meet and disagree."""

    command: ClassVar[str] = "compose"
    seed: int
    backbone: str
    method: str = "compose"
    rule: str
    scale: float
    kept: float
    """The share of each file's values that the rule keeps."""
    file: str
    bytes: int
    density: float
    values: ComposedAs
    classes: tuple[str, ...]
    shared_classes: tuple[SharedClass, ...]
    files: tuple[ComposedFile, ...]
    weights: MergedWeights
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class PushResult(Result):
    """What was uploaded to a repository, and the command with which others fetch it."""

    command: ClassVar[str] = "push"
    file: str
    bytes: int
    sha256: str
    kind: str
    backbone: str
    licence: str
    repository: str
    revision: str
    private: bool
    url: str
    commit: str
    files: tuple[str, ...]
    replaced: bool
    """Whether the file took the place of another."""
    card_kept: str | None
    """Why the model card that was there stays; None where it was written."""
    pull: str


@dataclass(frozen=True, kw_only=True)
class PullResult(Result):
    """The file that was fetched from a repository. Of a bank there are neither classes nor an expected accuracy."""

    command: ClassVar[str] = "pull"
    repository: str
    revision: str
    commit: str | None
    url: str
    source: str = field(metadata=called("from"))
    file: str
    bytes: int
    kind: str
    sha256: str
    backbone: str
    fingerprint: str
    licence: str
    method: str | None
    classes: tuple[str, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    expected_accuracy: ExpectedAccuracy | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
