"""Predictions as a table in a terminal, and as CSV and JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.printable import printable
from fewshot_cli.reports.spreadsheet import Sheet
from fewshot_cli.results import Prediction, PredictResult, SortedInto
from fewshot_cli.results.base import plain

SET = " | "
"""Between the labels of a set."""
NO_LABEL = "(none)"
"""What is shown of an image that has none of several labels."""


def predicted(result: PredictResult, top: int = 2) -> RenderableType:
    """A row for every image, of several delta files one for each: label, probability, and the runners-up."""
    return Group(_table(result, top), *_notes(result))


def watched(result: PredictResult) -> RenderableType:
    """What is left to say when all rows were shown as they came."""
    unread = f", {result.unread} could not be read" if result.unread else ""
    return Group(Text(f"{result.images} images labelled{unread}"), *_notes(result))


def _table(result: PredictResult, top: int) -> Table:
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
        if row.label is None:
            table.add_row(*names, Text(row.error or "", style="yellow"), "", "")
        elif row.probability is None:
            others = ", ".join(f"{name} {share:.3f}" for name, share in row.top[: top - 1])
            table.add_row(*names, Text(row.label, style="yellow"), "", Text(others))
        elif result.coverage is not None:
            table.add_row(*names, Text(SET.join(row.labels or ()), style="bold"), f"{row.probability:.3f}", "")
        else:
            style = "bold" if row.probability >= 0.5 else "yellow"
            others = ", ".join(f"{name} {share:.3f}" for name, share in row.top[1:top])
            if row.labels is not None:
                others = ", ".join(f"{name} {share:.3f}" for name, share in row.top[: max(top, len(row.labels) + 1)])
            label = Text(row.label or NO_LABEL, style=style)
            table.add_row(*names, label, f"{row.probability:.3f}", Text(others))
    return table


def _notes(result: PredictResult) -> list[Text]:
    notes = [Text(line) for line in _sorted_into(result.sorted_into)]
    if result.unknown is not None:
        notes.append(Text(f"{result.unknown:.0%} of the images are unknown", style="dim"))
    if result.coverage is not None:
        where = "in each class" if result.coverage_by_class else "over all classes together, not in each"
        notes.append(Text(f"A set holds the true label in {result.coverage:.0%} of the images, {where}.", style="dim"))
    if result.transductive:
        note = "The head is transductive: each answer depends on what else was asked about."
        notes.append(Text(note, style="dim"))
    return notes


def _sorted_into(done: SortedInto | None) -> list[str]:
    """What was copied where, as a sentence; nothing where nothing was asked for."""
    if done is None:
        return []
    counts = ", ".join(f"{name} {count}" for name, count in done.copied.items() if count)
    there = f"; {done.there} were there already" if done.there else ""
    return [f"copied {sum(done.copied.values())} images into {done.folder}{': ' if counts else ''}{counts}{there}"]


class Rows:
    """Rows as CSV, written as they come: path, of several delta files file, label, probability, error.

    With `sets` a column has the labels of the set. With `top` the columns label 2, probability 2 and so on follow, with
    `classes` one for the probability of each.
    """

    def __init__(
        self, file: TextIO, several: bool, top: int | None = None, classes: Sequence[str] = (), sets: bool = False
    ) -> None:
        self.plain = ("path", *(["file"] if several else []), "label", "probability", "error")
        self.sets = sets
        self.top, self.classes = top or 1, tuple(classes)
        more = [f"{what} {place}" for place in range(2, self.top + 1) for what in ("label", "probability")]
        labels = ["labels"] if sets else []
        self._sheet = Sheet(file, (*self.plain, *labels, *more, *(f"p({name})" for name in self.classes)))

    def add(self, rows: Sequence[Prediction]) -> None:
        """Adds these."""
        self._sheet.add_cells(self._cells(row) for row in rows)

    def _cells(self, row: Prediction) -> list[Any]:
        more = [value for pair in row.top[1 : self.top] for value in pair]
        known = row.probabilities or {}
        missing = [None] * (2 * (self.top - 1) - len(more))
        labels = [SET.join(row.labels) if row.labels else None] if self.sets else []
        plain = [getattr(row, name) for name in self.plain]
        return [*plain, *labels, *more, *missing, *(known.get(name) for name in self.classes)]


class JsonLines:
    """Rows as JSON, one a line, written as they come."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def add(self, rows: Sequence[Prediction]) -> None:
        """Adds these."""
        for row in rows:
            text = json.dumps(plain(row), ensure_ascii=False)
            self._file.write(text.encode(errors="surrogateescape").decode(errors="backslashreplace") + "\n")


def line_of(row: Prediction) -> str:
    """A row of those that come one by one."""
    named = f"{printable(row.path)}" + (f"\t{printable(row.file)}" if row.file else "")
    if row.label is None:
        return f"{named}\t{printable(row.error)}"
    if row.probability is None:
        return f"{named}\t{printable(row.label)}"
    return f"{named}\t{printable(row.label or NO_LABEL)}\t{row.probability:.3f}"


def labelled(result: PredictResult, paths: Sequence[Path]) -> RenderableType:
    """How many images there were, where the rows themselves went to files."""
    unread = f", {result.unread} could not be read" if result.unread else ""
    where = printable(" and ".join(map(str, paths)))
    return Group(Text(f"{result.images} images labelled{unread}; the rows are in {where}"), *_notes(result))
