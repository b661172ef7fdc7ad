"""`fewshot recipes [list | show NAME | copy NAME FILE | check NAME]`"""

from pathlib import Path
from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.cli.values import Command, Commands

recipes = typer.Typer(cls=Commands, help="List, show, copy and check recipes.", rich_markup_mode=None)
Name = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A recipe's name, or a recipe file.")]


@recipes.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@recipes.command("list", cls=Command)
@options.command
def list_(json: options.Json = False) -> None:
    """List the recipes: name, method, and what it is for."""
    from fewshot_cli.cli.terminal import show_rows
    from fewshot_cli.jobs.recipes import listed

    show_rows(listed(), json, lambda report: [(item["name"], item["about"]) for item in report["recipes"]])


@recipes.command("show", cls=Command)
@options.command
def show_(name: Name) -> None:
    """Print a recipe's file."""
    from fewshot_cli.jobs.recipes import text

    print(text(name), end="")


@recipes.command("copy", cls=Command)
@options.command
def copy(name: Name, output: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")]) -> None:
    """Copy a recipe, to change it."""
    from fewshot_cli.errors import FewshotError
    from fewshot_cli.jobs.recipes import text
    from fewshot_cli.storage.atomic import check_writable, write_atomically

    check_writable(output)
    if output.exists():
        raise FewshotError(f"{output} exists already.", "Choose another name, or remove it first.")
    write_atomically(output, text(name))


@recipes.command("check", cls=Command)
@options.command
def check(name: Name, changes: options.Changes = None, json: options.Json = False) -> None:
    """Check a recipe, and print it with every setting it leaves at its default."""
    early.check_recipes([name], changes or ())
    from fewshot_cli.cli.terminal import show_text
    from fewshot_cli.jobs.recipes import checked
    from fewshot_cli.reports.as_yaml import as_yaml

    show_text(checked(name, changes or ()), json, lambda report: as_yaml(report["recipe"]))
