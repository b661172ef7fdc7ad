"""The result of `choose`: the recipes that could be taken for a folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fewshot_cli.results.base import Result


@dataclass(frozen=True)
class Candidate:
    """A recipe that could be taken: its held-out accuracy with a 95 % interval, None where it can't be known.

    `seconds` are those that it took, or would take where it was not tried; `why` says why it was taken or not.
    """

    recipe: str
    backbone: str
    accuracy: float | None
    low: float | None
    high: float | None
    seconds: float
    chosen: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class ChooseResult(Result):
    """What `adapt` would take for a folder, and all that it could."""

    command: ClassVar[str] = "choose"
    folder: str
    classes: tuple[str, ...]
    images: int
    budget: float
    """Seconds."""
    candidates: tuple[Candidate, ...]
    advice: str
    """Whether training would pay, in a sentence."""
    seconds: Mapping[str, float]
