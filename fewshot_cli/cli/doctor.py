"""`fewshot doctor FOLDER|ZIP|LIST`"""

from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.errors import FewshotError

OF_LEARNING = ("--backbone", "--weights", "--image-size", "--device", "--offline", "--no-cache")


@options.command
def doctor(
    folder: options.Folder,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn",
            help="Learn from the images, too: name likely wrong labels, classes that can't be told apart, images that "
            "hurt and photos of one burst.",
        ),
    ] = False,
    backbone: options.Backbone = None,
    weights: options.Weights = None,
    image_size: options.ImageSize = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Name every problem image and what to do.

    Among them are unreadable, truncated and turned ones, duplicates, and classes with a single image. With --learn the
    images are judged by what is learned from the others, with the reason and the images that each looks like.
    """
    given = (backbone, weights, image_size, device != "auto", offline, no_cache)
    idle = [name for name, value in zip(OF_LEARNING, given, strict=True) if value]
    if idle and not learn:
        raise FewshotError(f"{idle[0]} is of --learn, and does nothing without it.", "Give --learn, or leave it out.")
    early.check_there([folder])
    early.check_labelled(folder, allow_empty=True, several=True)
    early.check_device(device)
    early.check_weights(weights)
    from fewshot_cli.cli.terminal import progress_on, show
    from fewshot_cli.reports.terminal.doctor import examined

    if not learn:
        from fewshot_cli.jobs.classify.doctor import doctor as job

        show(job(folder, progress_on(quiet)), json, examined)
        return
    from fewshot_cli.recipes import load_recipe

    recipe = load_recipe("ridge", backbone=backbone, image_size=image_size)
    progress = options.start(quiet, offline)
    context = options.context(weights, offline, device, no_cache, progress)
    from fewshot_cli.jobs.classify.learned_doctor import learned_doctor

    show(learned_doctor(folder, recipe, context), json, examined)
