"""The files of recipes: where they lie, and what they say, as YAML 1.2. Whether it makes sense is for `recipes`."""

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FewshotError

DEFAULT_BACKBONE = "tf_efficientnet_lite0"
AUTO = "auto"
"""What `adapt` does where no recipe is given: it chooses one for the images."""
TRAINED = "bitfit"
"""The recipe that trains, which is tried where it pays."""
DEFAULT_BUDGET = 20
"""Seconds that choosing and training may take."""
DEFAULT_RECIPE_FROM_BANK = "protonet"

_INSTALLED = Path(__file__).parent / "_recipes"
RECIPES = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).parent.parent / "recipes"
"""Where the recipes that come with the install lie; in a checkout, the top-level folder."""


def installed() -> list[str]:
    """The names of the recipes that come with the install, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def recipe_path(name_or_path: str) -> Path:
    """The file of a recipe given by its name, or as a path. Raises FewshotError where there is neither."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or _is_file(path):
        if not _is_file(path):
            raise FewshotError(
                f"There is no recipe file '{path}'.", "`fewshot recipes` lists the recipes that come with the install."
            )
        return path
    if name_or_path == AUTO:
        raise FewshotError(
            "auto is no recipe: it has `fewshot adapt` choose one for a folder.",
            "Name recipes; `fewshot choose FOLDER` shows what it would take.",
        )
    if name_or_path not in installed():
        near = get_close_matches(name_or_path, installed(), n=3)
        raise FewshotError(
            f"There is no recipe called '{name_or_path}'.",
            f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(installed())}.",
        )
    return RECIPES / f"{name_or_path}.yaml"


def parts_of(change: str) -> tuple[list[str], str]:
    """The keys and the value of a `key.path=value`, as `--set` takes it. Raises FewshotError for any other form."""
    path, equals, text = change.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise FewshotError(
            f"--set {change} is not of the form key.path=value.", "For example: --set method.tuning.optim.steps=100"
        )
    return keys, text


def recipe_content(path: Path) -> dict[str, Any]:
    """What a recipe's file says, not validated. Raises FewshotError where it is no YAML, or no mapping."""
    try:
        content = yaml_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FewshotError(f"The recipe {path} can't be read: {error.strerror}.", "Check its permissions.") from None
    except ValueError as error:
        raise FewshotError(
            f"{path} is not a YAML file: {' '.join(str(error).split())}",
            "See `fewshot recipes show ridge` for one that is.",
        ) from None
    if content is not None and not isinstance(content, dict):
        raise FewshotError(
            f"{path} holds a {type(content).__name__}, not a recipe.", "See `fewshot recipes show ridge` for one."
        )
    return content or {}


def yaml_value(text: str) -> Any:
    """What the YAML 1.2 says. Raises ValueError where it is none, has a key twice, or contains itself."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    reader = YAML(typ="safe", pure=True)
    # YAML 1.2's core schema has no dates: 2024-12-01 is a text.
    reader.constructor.add_constructor("tag:yaml.org,2002:timestamp", type(reader.constructor).construct_yaml_str)
    try:
        found = reader.load(text)
        json.dumps(found, default=str, skipkeys=True)  # raises ValueError where something contains itself
        return found
    except YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where is not None else ""
        raise ValueError(f"{getattr(error, 'problem', None) or error}{line}.") from None
    except RecursionError:
        raise ValueError("It is nested too deeply.") from None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False
