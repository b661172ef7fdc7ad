"""The result of `plan`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fewshot_cli.results.base import Result


@dataclass(frozen=True)
class PlannedRecipe:
    """What a recipe would cost: seconds from the folder to the proved file, bytes of memory, and bytes of the file."""

    recipe: str
    backbone: str
    seconds: float
    memory: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class PlanResult(Result):
    """What each recipe would cost on a folder, before it runs."""

    command: ClassVar[str] = "plan"
    folder: str
    classes: tuple[str, ...]
    images: int
    device: str
    candidates: tuple[PlannedRecipe, ...]
    seconds: Mapping[str, float]
    """Of the planning."""
