"""Recipes: a YAML file that says which method with which settings, on which backbone."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError

from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods import AnyMethod

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
DEFAULT_RECIPE = "bitfit"

_INSTALLED = Path(__file__).parent / "_recipes"
RECIPES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "recipes"
"""Where the recipes that come with the install lie; in a checkout, the top-level folder."""


class Recipe(Settings):
    """What a run does, as the user may say it."""

    backbone: str = DEFAULT_BACKBONE
    image_size: int | None = Field(default=None, ge=16, le=4096)
    """Pixels; None is the size the backbone was trained at."""
    method: AnyMethod


def recipe_names() -> list[str]:
    """The names of the recipes that come with the install."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def method_names() -> list[str]:
    """What `method.name` can be."""
    union, *_ = get_args(AnyMethod)
    return [method.model_fields["name"].default for method in get_args(union)]


def recipe_path(name_or_path: str) -> Path:
    """The file of a recipe given by its name, or as a path. Raises FewshotError where there is neither."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise FewshotError(
                f"There is no recipe file '{path}'.", "`fewshot recipes` lists the recipes that come with the install."
            )
        return path
    if name_or_path not in recipe_names():
        near = get_close_matches(name_or_path, recipe_names(), n=3)
        raise FewshotError(
            f"There is no recipe called '{name_or_path}'.",
            f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(recipe_names())}.",
        )
    return RECIPES / f"{name_or_path}.yaml"


def load_recipe(name_or_path: str, changes: Sequence[str] = (), **given: Any) -> Recipe:
    """The recipe of that name or file with the user's changes, validated.

    `changes` are "key.path=value" as `--set` takes them; `given` are top-level fields that options set, None meaning
    not given. Raises FewshotError that lists every mistake at once, each with the path that `--set` takes.
    """
    path = recipe_path(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise FewshotError(f"The recipe {path} can't be read: {error.strerror}.", "Check its permissions.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FewshotError(
            f"{path} is not a YAML file: {' '.join(str(error).split())}",
            "See `fewshot recipes show ridge` for one that is.",
        ) from None
    if not isinstance(content, dict):
        raise FewshotError(
            f"{path} holds a {type(content).__name__}, not a recipe.", "See `fewshot recipes show ridge` for one."
        )
    for change in changes:
        _set(content, change)
    content |= {key: value for key, value in given.items() if value is not None}
    return parse_recipe(content, str(path))


def parse_recipe(content: Mapping[str, Any], source: str) -> Recipe:
    """The recipe in `content`, which came from `source`. Raises FewshotError that lists every mistake."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        mistakes = [_mistake(item) for item in error.errors()]
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        raise FewshotError(
            f"The recipe {source} has {count}:\n" + "\n".join(f"  {mistake}" for mistake in mistakes),
            "Mend the file, or give a value with --set PATH=VALUE; `fewshot recipes show NAME` prints one that works.",
        ) from None


def _set(content: dict[str, Any], change: str) -> None:
    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise FewshotError(
            f"--set {change} is not of the form key.path=value.", "For example: --set method.tuning.optim.steps=100"
        )
    try:
        value = _number(yaml.safe_load(text))
    except yaml.YAMLError:
        value = text
    section = content
    for key in keys[:-1]:
        inner = section.setdefault(key, {})
        if not isinstance(inner, dict):
            raise FewshotError(
                f"--set {change}: '{key}' is a value, not a section.",
                "`fewshot recipes show NAME` prints the sections.",
            )
        section = inner
    section[keys[-1]] = value


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as a text; people mean the number."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    return value


def _mistake(item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    if location[:1] == ["method"] and len(location) > 2:
        del location[1]  # pydantic puts the method's name there, which is no part of the path
    path = ".".join(location)
    given = item["input"]
    if item["type"] == "extra_forbidden":
        return f"{path}: there is no such setting"
    if item["type"] == "union_tag_not_found" or (item["type"] == "missing" and path == "method"):
        return f"method.name: is missing; there are {', '.join(method_names())}"
    if item["type"] == "union_tag_invalid":
        near = get_close_matches(item["ctx"]["tag"], method_names(), n=3)
        rest = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(method_names())}"
        return f"method.name: {given['name']!r} is not a method; {rest}"
    if path == "method" and isinstance(given, str):
        return f"method: is a section, not a value; write {{name: {given}}}"
    if item["type"] == "missing":
        return f"{path}: is missing"
    return f"{path}: {item['msg'].removeprefix('Value error, ')} (given: {given!r})"
