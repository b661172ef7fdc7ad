"""From keyword arguments to what jobs take: recipes, and the context of a job."""

import json
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from fewshot_cli.engine.device import choose_device
from fewshot_cli.errors import FewshotError
from fewshot_cli.jobs.classify.choose import ChoiceSettings, choice_settings
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipe_files import DEFAULT_RECIPE_FROM_BANK
from fewshot_cli.recipes import Recipe, load_recipe
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

AnyPath: TypeAlias = str | PathLike[str]

Settings: TypeAlias = Mapping[str, Any]
"""Settings of a recipe by their dotted paths, as `--set` takes them, or nested as in its file."""


def context_of(weights: AnyPath | None, device: str, offline: bool, no_cache: bool) -> JobContext:
    """What a job works with. Nothing is shown, and no other process helps."""
    source = Source(None if weights is None else Path(weights), offline)
    return JobContext(source, choose_device(device), NoCache() if no_cache else FeatureCache(), NoProgress())


def recipe_of(
    recipe: AnyPath | None,
    changes: Settings | None,
    backbone: str | None,
    image_size: int | None,
    bank: AnyPath | None,
    density: float | None,
) -> Recipe:
    """The recipe of a name or a file, with these changes. Raises FewshotError that lists every mistake."""
    name = DEFAULT_RECIPE_FROM_BANK if recipe is None else str(recipe)
    given = {"backbone": backbone, "image_size": image_size, "density": density}
    return load_recipe(name, changes_of(changes), **given, bank=None if bank is None else str(bank))


def choice_of(
    backbone: str | None,
    image_size: int | None,
    budget: float | None,
    seed: int,
    changes: Settings | None,
    folds: int | None,
    density: float | None,
) -> ChoiceSettings:
    """What a recipe is chosen from. Raises FewshotError for what is of one recipe."""
    for name, value in {"set": changes, "folds": folds, "density": density}.items():
        if value is not None:
            raise FewshotError(f"{name} is of one recipe, and none is given.", f"Give a recipe, or leave {name} out.")
    return choice_settings({"backbone": backbone, "image_size": image_size}, budget, seed)


def changes_of(changes: Settings | None) -> list[str]:
    """The settings as `--set` takes them."""
    return [f"{key}={_as_text(key, value)}" for key, value in _flat(changes or {})]


def _flat(settings: Settings, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _as_text(key: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        raise FewshotError(
            f"The setting {key} is a {type(value).__name__}, which no recipe can hold.",
            "Give a number, a text, True, False, None, or a list of these.",
        ) from None
