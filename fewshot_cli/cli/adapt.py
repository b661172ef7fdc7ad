"""`fewshot adapt FOLDER|ZIP|LIST -o FILE`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options


@options.command
def adapt(
    folder: options.Folder,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The delta file to write.")],
    recipe: options.Recipe = None,
    method: options.Method = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            "--bank",
            metavar="FILE",
            help="Begin from what was meta-tuned, a bank, on its backbone; the recipe is protonet if none is given.",
        ),
    ] = None,
    density: options.Density = None,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    changes: options.Changes = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            metavar="N",
            min=0,
            help="Folds to estimate a trained method's accuracy in, 5 if not given; 0 doesn't.",
        ),
    ] = None,
    values: Annotated[
        options.Values,
        typer.Option(
            "--values",
            help="How to keep each changed weight: fewer bits make a smaller file, which is proved with them.",
        ),
    ] = "float16",
    keep_support: Annotated[
        bool,
        typer.Option(
            "--keep-support",
            help="Keep what the backbone sees in the images in the file, too; a transductive head always does.",
        ),
    ] = False,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Learn a classifier from labelled images.

    Writes it to a small file, proves that file, and says what accuracy to expect.
    """
    named = options.recipe_name(recipe, method, bank is not None)
    early.check_device(device)
    early.check_weights(weights)
    early.check_recipes([named], changes or ())
    early.check_there([folder])
    early.check_outputs([output])
    from fewshot_cli.recipes import folds_asked, load_recipe

    what = load_recipe(
        named,
        changes or (),
        backbone=backbone,
        image_size=image_size,
        bank=bank and str(bank),
        density=density,
    )
    asked = folds_asked(what, folds)
    early.check_labelled(folder)
    early.check_banks([Path(what.bank)] if what.bank else [])
    progress = options.start(quiet, offline)
    means = options.means(weights, offline, device, no_cache, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.classify.adapt import AdaptSettings
    from fewshot_cli.jobs.classify.adapt import adapt as job
    from fewshot_cli.reports.terminal.adapt import adapted

    how = AdaptSettings(what, seed, asked, values, keep_support)
    show(job(folder, output, how, means), json, adapted)
