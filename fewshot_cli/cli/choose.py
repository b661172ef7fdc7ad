"""`fewshot choose FOLDER|ZIP|LIST`"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.jobs.classify.choose import ChoiceSettings


@options.command
def choose(
    folder: options.Folder,
    backbone: options.Backbone = None,
    backbones: Annotated[
        str | None,
        typer.Option("--backbones", metavar="A,B,C", help="Compare these backbones, too, as far as they are at hand."),
    ] = None,
    budget: options.Budget = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show which recipe `adapt` takes for a folder, and why.

    For each it says the accuracy on images left out, the seconds, and why it is taken or not.
    """
    several = [name.strip() for name in (backbones or "").split(",") if name.strip()]
    if backbones is not None and (backbone is not None or weights is not None or len(set(several)) < 2):
        raise FewshotError(
            "--backbones compares two backbones or more, each with its own weights.",
            "Give it names with commas between, without --backbone and --weights.",
        )
    early.check_device(device)
    early.check_weights(weights)
    early.check_there([folder])
    for name in [backbone, *several]:
        early.check_backbone(name)
    early.check_labelled(folder)
    check_choice(backbone, image_size)
    progress = options.start(quiet, offline)  # before a library is imported that asks the network
    asked = choice_asked(backbone, image_size, None, budget, seed, several)
    context = options.context(weights, offline, device, no_cache, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.classify.choose import choose as job
    from fewshot_cli.reports.terminal.choose import compared

    show(job(folder, asked, context), json, compared)


def check_choice(backbone: str | None, image_size: int | None, template: Sequence[str] | None = None) -> None:
    """Raises FewshotError for a mistake in what all recipes to choose from have in common."""
    from fewshot_cli.recipes import load_recipe

    load_recipe("cosine-ridge", backbone=backbone, image_size=image_size, template=template)


def choice_asked(
    backbone: str | None,
    image_size: int | None,
    template: Sequence[str] | None,
    budget: float | None,
    seed: int,
    backbones: Sequence[str] = (),
) -> "ChoiceSettings":
    """What is chosen from, as the options say."""
    fields: dict[str, Any] = {"backbone": backbone, "image_size": image_size, "template": template}
    from fewshot_cli.jobs.classify.choose import choice_settings

    return choice_settings(fields, budget, seed, backbones)
