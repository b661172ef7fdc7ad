"""Rows that a spreadsheet opens: CSV in which no text is taken for a formula, whoever wrote it."""

import csv
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class Sheet:
    """CSV lines under a header, written as they come.

    Text that a spreadsheet would take for a formula gets an apostrophe in front: it begins with =, +, -, @, a tab or a
    carriage return, and names of classes and files may be anybody's.
    """

    def __init__(self, file: TextIO, columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self._file = file
        self._writer = csv.writer(self, lineterminator="\r\n")  # what ends lines is quoted in cells: both of these are
        self._writer.writerow([cell(name) for name in self.columns])

    def write(self, line: str) -> None:
        """Takes a line from the writer."""
        self._file.write(line.removesuffix("\r\n") + "\n")

    def add_cells(self, rows: Iterable[Sequence[Any]]) -> None:
        """Adds rows of as many values as there are columns."""
        self._writer.writerows([[cell(value) for value in row] for row in rows])


def cell(value: Any) -> Any:
    """The value as a cell: nothing for None, and no text is a formula."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
