"""`fewshot rename-class FILE OLD NEW -o FILE`"""

from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.cli.edit_options import InPlace, Output, output_of


@options.command
def rename_class(
    file: options.File,
    old: Annotated[str, typer.Argument(metavar="OLD", help="What the class is called.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="What it is to be called.")],
    output: Output = None,
    in_place: InPlace = False,
    json: options.Json = False,
) -> None:
    """Give a class of a classifier another name. Every answer stays the same but for that."""
    early.check_delta_files([file])
    target = output_of(file, output, in_place)
    early.check_has_class(file, old)
    early.check_new_name(file, new)
    early.check_outputs([target])
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.edit.rename_class import rename_class as job
    from fewshot_cli.reports.terminal.edit import edited

    show(job(file, old, new, target), json, edited)
