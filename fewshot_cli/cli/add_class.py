"""`fewshot add-class FILE FOLDER -o FILE`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.cli.edit_options import InPlace, Output, output_of


@options.command
def add_class(
    file: options.File,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The images of the new class, or a sub-folder for each of several.")
    ],
    output: Output = None,
    in_place: InPlace = False,
    class_name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What the class is called, if not as FOLDER is; one class only."),
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
    """
    early.check_device(device)
    early.check_weights(weights)
    early.check_delta_files([file])
    early.check_there([folder])
    target = output_of(file, output, in_place)
    early.check_keeps_images(file)
    early.check_outputs([target])
    progress = options.start(quiet, offline)
    means = options.means(weights, offline, device, no_cache, progress)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.edit.add_class import add_class as job
    from fewshot_cli.reports.terminal.edit import edited

    show(job(file, folder, class_name, target, means), json, edited)
