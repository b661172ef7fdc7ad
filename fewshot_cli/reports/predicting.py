"""Predictions as a table in a terminal, and as CSV."""

import csv
import io
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def predicted(report: dict[str, Any]) -> RenderableType:
    """A row for every image, of several delta files one for each: label, probability, and the runner-up."""
    several = "files" in report
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("image", overflow="fold")
    if several:
        table.add_column("file", overflow="fold")
    table.add_column("label")
    table.add_column("probability", justify="right")
    table.add_column("next", style="dim")
    for row in report["predictions"]:
        names = [Text(row["path"]), *([Text(row["file"])] if several else [])]
        if row["error"]:
            table.add_row(*names, Text(row["error"], style="yellow"), "", "")
        else:
            name, share = row["top"][1]
            style = "bold" if row["probability"] >= 0.5 else "yellow"
            table.add_row(
                *names,
                Text(row["label"], style=style),
                f"{row['probability']:.3f}",
                Text(f"{name} {share:.3f}"),
            )
    if not report.get("transductive"):
        return table
    note = "The head is transductive: each answer depends on what else was asked about."
    return Group(table, Text(note, style="dim"))


def as_csv(report: dict[str, Any]) -> str:
    """The rows as CSV with a header: path, of several delta files file, label, probability, error."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("path", *(["file"] if "files" in report else []), "label", "probability", "error")
    writer.writerow(columns)
    writer.writerows(
        [["" if row[column] is None else row[column] for column in columns] for row in report["predictions"]]
    )
    return text.getvalue()
