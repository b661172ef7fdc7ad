"""`fewshot cache [show | clear [KIND...]]`"""

from typing import Annotated

import typer

from fewshot_cli.cli import options
from fewshot_cli.cli.values import Command, Commands

cache = typer.Typer(cls=Commands, help="Show and clear what is remembered on this machine.", rich_markup_mode=None)


@cache.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        show_()


@cache.command("show", cls=Command)
@options.command
def show_(json: options.Json = False) -> None:
    """Show where it lies, and how much there is of features, pictures, weights and what other versions left."""
    from fewshot_cli.cli.terminal import show_rows
    from fewshot_cli.jobs.cache import cached
    from fewshot_cli.reports.terminal.cache import remembered

    show_rows(cached(), json, remembered)


@cache.command("clear", cls=Command)
@options.command
def clear_(
    kinds: Annotated[
        list[str] | None, typer.Argument(metavar="KIND...", help="features, pictures, weights, other; or all.")
    ] = None,
    unused_for: Annotated[
        float | None,
        typer.Option("--unused-for", metavar="DAYS", min=0, help="Only features and pictures not used for so long."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Remove what is remembered; it is computed again when it is needed."""
    from fewshot_cli.cli.terminal import show_rows
    from fewshot_cli.jobs.cache import clear
    from fewshot_cli.reports.terminal.cache import cleared

    show_rows(clear(kinds or [], unused_for), json, cleared)
