"""`fewshot doctor FOLDER|ZIP|LIST`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options


@options.command
def doctor(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|ZIP|LIST", help="Class folders, a zip of such, or a .csv, .tsv or .jsonl of path and label."
        ),
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Name every problem image and what to do.

    Among them are unreadable, truncated and turned ones, duplicates, and classes with a single image.
    """
    from fewshot_cli.cli.terminal import progress_on, show
    from fewshot_cli.jobs.classify.doctor import doctor as job
    from fewshot_cli.reports.terminal.doctor import examined

    report = job(folder, progress_on(quiet))
    show(report, json, examined)
