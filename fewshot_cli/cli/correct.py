"""`fewshot correct FILE CSV -o FILE`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.cli.edit_options import InPlace, Output, Working, output_of


@options.command
def correct(
    file: options.File,
    listed: Annotated[
        Path,
        typer.Argument(
            metavar="CSV",
            help="A list with the columns path and label; of a list by `predict --csv`, path and a new column correct.",
        ),
    ],
    output: Output = None,
    in_place: InPlace = False,
    weights: options.Weights = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell a classifier which class pictures are of.

    Pictures that it was learned from get the label that the list says, new ones are learned from, too. Rows without a
    label are passed over.
    """
    working = Working(file, weights, device, offline, no_cache, quiet)
    working.check(listed)
    target = output_of(file, output, in_place)
    early.check_keeps_images(file)
    early.check_corrections(listed)
    context = working.context(target)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.edit.correct import correct as job
    from fewshot_cli.reports.terminal.edit import edited

    show(job(file, listed, target, context), json, edited)
