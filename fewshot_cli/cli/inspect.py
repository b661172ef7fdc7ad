"""`fewshot inspect FILE`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import options


@options.command
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A delta file or a bank.")],
    picture: Annotated[
        Path | None,
        typer.Option(
            "--picture",
            metavar="FILE.svg|.png|.html",
            help="Draw a bank: how dense each layer is in each expert, and how far experts overlap.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show what a delta file or a bank holds.

    Among it are backbone, recipe, density, size, and where it comes from; of a delta file its classes, and of a bank
    how dense its experts are in each layer and how far they overlap.
    """
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.inspect import check_picture, draw
    from fewshot_cli.jobs.inspect import inspect as job
    from fewshot_cli.reports.inspection import inspected

    if picture is not None:
        check_picture(picture)
    report = job(file)
    if picture is not None:
        draw(report, picture)
    show(report, json, inspected)
