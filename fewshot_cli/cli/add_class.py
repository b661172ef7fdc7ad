"""`fewshot add-class FILE FOLDER -o FILE`, or `--name NAME` in the place of the images"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.cli.edit_options import InPlace, Output, Working, output_of
from fewshot_cli.errors import FewshotError


@options.command
def add_class(
    file: options.File,
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="The images of the new class, or a sub-folder for each of several; with CLIP --name may do.",
        ),
    ] = None,
    output: Output = None,
    in_place: InPlace = False,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="What the class is called, if not as FOLDER is; one class only.",
        ),
    ] = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Teach a classifier another class.

    The old images are not needed: FILE keeps their features, if it was made with --keep-support. The new classifier is
    the one that all images at once would have given. A class that FILE has already gets more images.

    With --name and no FOLDER a classifier whose classes are what CLIP's text tower makes of their names, such as
    one of `adapt --names`, gets one more; the text tower of its backbone reads the name.
    """
    if folder is None and class_name is None:
        raise FewshotError("There is nothing to add.", "Give a folder of images, or --name NAME.")
    if folder is None and no_cache:
        raise FewshotError("--no-cache would do nothing: without a folder no picture is looked at.", "Leave it out.")
    working = Working(file, weights, device, offline, no_cache, quiet)
    working.check(folder)
    target = output_of(file, output, in_place)
    if folder is not None:
        early.check_keeps_images(file)
        early.check_new_images(folder, class_name)
    context = working.context(target, by_name=class_name if folder is None else None)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.edit.add_class import add_class as job
    from fewshot_cli.reports.terminal.edit import edited

    if folder is None:
        from fewshot_cli.jobs.edit.add_name import add_name

        assert class_name is not None
        show(add_name(file, class_name, target, context), json, edited)
    else:
        show(job(file, folder, class_name, target, context), json, edited)
