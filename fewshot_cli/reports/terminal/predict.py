"""Predictions as a table in a terminal, and as CSV."""

from typing import TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.printable import printable
from fewshot_cli.reports.spreadsheet import Sheet
from fewshot_cli.results import PredictResult


def predicted(result: PredictResult) -> RenderableType:
    """A row for every image, of several delta files one for each: label, probability, and the runner-up."""
    several = result.files is not None
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("image", overflow="fold")
    if several:
        table.add_column("file", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("next", style="dim")
    for row in result.predictions or ():
        names = [Text(row.path), *([Text(row.file or "")] if several else [])]
        if row.label is None or row.probability is None:
            table.add_row(*names, Text(row.error or "", style="yellow"), "", "")
        else:
            name, share = row.top[1]
            style = "bold" if row.probability >= 0.5 else "yellow"
            table.add_row(
                *names,
                Text(row.label, style=style),
                f"{row.probability:.3f}",
                Text(f"{name} {share:.3f}"),
            )
    if not result.transductive:
        return table
    note = "The head is transductive: each answer depends on what else was asked about."
    return Group(table, Text(note, style="dim"))


class Rows(Sheet):
    """Rows as CSV, written as they come: path, of several delta files file, label, probability, error."""

    def __init__(self, file: TextIO, several: bool) -> None:
        super().__init__(file, ("path", *(["file"] if several else []), "label", "probability", "error"))


def labelled(result: PredictResult, path: str) -> RenderableType:
    """How many images there were, where the rows themselves went to a file."""
    unread = f", {result.unread} could not be read" if result.unread else ""
    return Text(f"{result.images} images labelled{unread}; the rows are in {printable(path)}")
