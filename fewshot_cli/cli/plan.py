"""`fewshot plan FOLDER|ZIP|LIST`"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.recipes import Recipe

CANDIDATES = ("cosine-ridge", "protonet", "gaussian", "ridge", "lda", "bitfit")
"""What `adapt` chooses from, where no recipe is named."""


@options.command
def plan(
    folder: options.Folder,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="NAME|FILE",
            help="A recipe to plan, repeatable; without it those that adapt chooses from.",
        ),
    ] = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    changes: options.Changes = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Say what recipes would cost on a folder before they run: seconds, memory, and the size of the file.

    A few images are looked at and a few steps of training are made, on this device; nothing is written.
    """
    early.check_device(device)
    early.check_weights(weights)
    early.check_recipes(recipe or (), changes or ())
    early.check_there([folder])
    if changes and not recipe:
        raise FewshotError("--set is of recipes, and none is named.", "Name one, as with --recipe bitfit.")
    recipes = _recipes(recipe or CANDIDATES, changes or (), backbone, image_size)
    for one in recipes.values():
        early.check_backbone(one.backbone)
    early.check_labelled(folder)
    progress = options.start(quiet, offline)
    context = options.context(weights, offline, device, True, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.plan.plan import plan as job
    from fewshot_cli.reports.terminal.plan import planned

    show(job(folder, recipes, context), json, planned)


def _recipes(
    names: Sequence[str], changes: Sequence[str], backbone: str | None, image_size: int | None
) -> "dict[str, Recipe]":
    """The recipes by the names given. Raises FewshotError where one can't be planned, or they differ in backbone."""
    from fewshot_cli.recipes import load_recipe

    found = {name: load_recipe(name, changes, backbone=backbone, image_size=image_size) for name in names}
    for name, one in found.items():
        if why := _why_not(one):
            raise FewshotError(f"What {name} would cost can't be told beforehand: {why}.", "Leave it out.")
    if len({(one.backbone, one.image_size) for one in found.values()}) > 1:
        raise FewshotError(
            "The recipes are on several backbones, or for images of several sizes.",
            "Plan each backbone on its own, or give --backbone and --image-size.",
        )
    return found


def _why_not(recipe: "Recipe") -> str | None:
    """Why the cost of a recipe can't be told by a few steps, as the end of a sentence; None where it can."""
    from fewshot_cli.recipes import TWO_TOWERS

    if recipe.bank is not None:
        return "it begins from a bank"
    if recipe.backbone.startswith(TWO_TOWERS) or recipe.learner.needs_text:
        return "it reads texts"
    if recipe.learner.head_only is None and not hasattr(recipe.method, "tuning"):
        return "the number of its steps is no setting of it"
    return None
