"""`fewshot next FILE FOLDER`"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options
from fewshot_cli.cli.edit_options import Working


@options.command
def next_(
    file: options.File,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures that have no label yet.")],
    count: Annotated[
        int, typer.Option("--count", "-n", metavar="N", min=1, max=1000, help="How many pictures to name.")
    ] = 10,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="OUT", help="Write a list to fill in the right labels, for `fewshot correct`."),
    ] = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    offline: options.Offline = False,
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Name the pictures to label next, those first whose label would teach most.

    A label teaches much where the answer is unsure and many other answers hang on it. Each picture is chosen as if
    those above it had their labels. FILE must have been made with --keep-support.
    """
    working = Working(file, weights, device, offline, no_cache, quiet)
    working.check(folder)
    context = working.context(csv)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.edit.next_ import next_ as job
    from fewshot_cli.reports.terminal.next_ import to_fill_in, to_label
    from fewshot_cli.storage.atomic import growing

    result = job(file, folder, count, context)
    if csv is not None:
        with growing(csv) as lines:
            to_fill_in(result, lines)
        result = replace(result, list=str(csv))
    show(result, json, to_label)
