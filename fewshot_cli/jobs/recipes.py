"""The recipes that come with the install, and whether one can be done on what it names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_cli import __version__
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.kinds import backbone_of_bank
from fewshot_cli.recipe_files import installed, recipe_path

if TYPE_CHECKING:
    from fewshot_cli.jobs.run_record import Report
    from fewshot_cli.recipes import Recipe

METHOD, HEAD = (re.compile(rf"^{section}:\n(?: +.*\n)*?  name: (\S+)", re.MULTILINE) for section in ("method", "head"))


def listed() -> "Report":
    """Every recipe's name, its method, and the first sentence of its comment."""
    recipes = [{"name": name, "method": _method_of(name), "about": about(name)} for name in installed()]
    return {"command": "recipes", "version": __version__, "recipes": recipes}


def _method_of(name: str) -> str:
    """What a recipe that comes with the install names as its method, or else as its head.

    The line is looked for, since a reader of YAML takes as long as all else here; tests hold that it is the right one.
    """
    found = METHOD.search(text(name)) or HEAD.search(text(name))
    assert found is not None, name
    return found[1]


def checked(name: str, changes: Sequence[str]) -> "Report":
    """The recipe with every setting spelled out. Raises FewshotError that lists every mistake in it."""
    from fewshot_cli.recipes import RecipeForBackbone, changed_content, is_meta, load_recipe

    recipe: RecipeForBackbone
    if is_meta(changed_content(name, changes)):
        from fewshot_cli.meta_recipes import load_meta_recipe

        recipe = load_meta_recipe(name, changes)
    else:
        recipe = load_recipe(name, changes)
    return {
        "command": "recipes",
        "version": __version__,
        "method": recipe.method_name,
        "recipe": recipe.model_dump(mode="json"),
    }


def check_reads_names(recipe: "Recipe") -> None:
    """Raises FewshotError where the recipe reads the names of the classes, and its backbone or its bank's does not.

    Of a bank the header is looked at; what is wrong with one is for others to say.
    """
    from fewshot_cli.recipes import check_reads

    of_bank = backbone_of_bank(Path(recipe.bank).expanduser()) if recipe.bank else None
    if of_bank is not None or recipe.bank is None:
        check_reads(recipe, of_bank)


def check_learns_from_none(recipe: "Recipe") -> None:
    """Raises FewshotError for a recipe that learns from images."""
    from fewshot_cli.methods.zero_shot import ZeroShot

    if not isinstance(recipe.learner, ZeroShot):
        raise FewshotError(
            f"The recipe {recipe.method_name} learns from images, and --names gives none.",
            "Leave the recipe out, or give a folder of images in place of --names.",
        )


def about(name: str) -> str:
    """The first sentence of the comment that a recipe's file opens with."""
    comment = text(name).split("\n#\n")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in comment).split(". ")[0].rstrip(".")


def text(name: str) -> str:
    """A recipe's file as it is. Raises FewshotError where there is none, or it is no text."""
    path = recipe_path(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FewshotError(
            f"{path} can't be read as text: {error}.", "`fewshot recipes` lists what there is."
        ) from None
