"""`fewshot inspect FILE`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options


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
    card: Annotated[
        Path | None,
        typer.Option("--card", metavar="FILE.md", help="Write a model card, as the Hugging Face hub shows it."),
    ] = None,
    bank: Annotated[
        list[Path] | None,
        typer.Option(
            "--bank", metavar="BANK", help="A bank that FILE comes from, if it doesn't lie beside it; may be repeated."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show what a delta file or a bank holds.

    Among it are backbone, recipe, density, size, and where it comes from; of a delta file its classes, and of a bank
    how dense its experts are in each layer and how far they overlap. The bank and the files it was composed of are told
    of where they lie in the same folder.
    """
    early.check_ours(file)
    early.check_outputs([picture, card])
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.share.describe import check_picture, draw
    from fewshot_cli.jobs.share.describe import inspect as job
    from fewshot_cli.reports.terminal.describe import inspected

    if picture is not None:
        check_picture(picture)
    if card is not None:
        from fewshot_cli.jobs.share.model_card import check_card, write_card

        check_card(card)
    result = job(file, bank or [])
    if picture is not None:
        draw(result, picture)
    if card is not None:
        write_card(result, card)
    show(result, json, inspected)
