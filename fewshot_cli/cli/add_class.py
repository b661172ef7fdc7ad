"""`fewshot add-class FILE FOLDER -o FILE`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options
from fewshot_cli.cli.edit_options import InPlace, Output, Working, output_of


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
    working = Working(file, weights, device, offline, no_cache, quiet)
    working.check(folder)
    target = output_of(file, output, in_place)
    means = working.means(target)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.edit.add_class import add_class as job
    from fewshot_cli.reports.terminal.edit import edited

    show(job(file, folder, class_name, target, means), json, edited)
