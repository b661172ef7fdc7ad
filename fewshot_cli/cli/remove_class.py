"""`fewshot remove-class FILE NAME -o FILE`"""

from typing import Annotated

import typer

from fewshot_cli.cli import early, options
from fewshot_cli.cli.edit_options import InPlace, Output, output_of


@options.command
def remove_class(
    file: options.File,
    class_name: Annotated[str, typer.Argument(metavar="NAME", help="The class to forget, with its images.")],
    output: Output = None,
    in_place: InPlace = False,
    json: options.Json = False,
) -> None:
    """Make a classifier forget a class.

    The new classifier is the one that the images of the other classes would have given, or their names, where FILE was
    made from names alone.
    """
    early.check_delta_files([file])
    target = output_of(file, output, in_place)
    early.check_loses_class(file, class_name)
    early.check_can_forget(file)
    early.check_outputs([target])
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.edit.remove_class import remove_class as job
    from fewshot_cli.reports.terminal.edit import edited

    show(job(file, class_name, target), json, edited)
