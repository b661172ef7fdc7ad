"""Predictions as a table in a terminal, and as CSV."""

import csv
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import printable
from fewshot_cli.results import Prediction, PredictResult

FORMULAS = ("=", "+", "-", "@", "\t", "\r")


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


class Rows:
    """Rows as CSV, written as they come: path, of several delta files file, label, probability, error.

    Text that a spreadsheet would take for a formula gets an apostrophe in front: it begins with =, +, -, @, a tab or a
    carriage return, and names of classes and files may be anybody's.
    """

    def __init__(self, file: TextIO, several: bool) -> None:
        self.columns = ("path", *(["file"] if several else []), "label", "probability", "error")
        self._file = file
        self._writer = csv.writer(self, lineterminator="\r\n")  # what ends lines is quoted in cells: both of these are
        self._writer.writerow(self.columns)

    def write(self, line: str) -> None:
        """Takes a line from the writer."""
        self._file.write(line.removesuffix("\r\n") + "\n")

    def add(self, rows: Sequence[Prediction]) -> None:
        """Adds these."""
        self._writer.writerows([[_cell(getattr(row, column)) for column in self.columns] for row in rows])


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def labelled(result: PredictResult, path: str) -> RenderableType:
    """How many images there were, where the rows themselves went to a file."""
    unread = f", {result.unread} could not be read" if result.unread else ""
    return Text(f"{result.images} images labelled{unread}; the rows are in {printable(path)}")
