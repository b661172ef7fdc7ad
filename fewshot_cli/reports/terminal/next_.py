"""The pictures to label next, as a table and as a list to fill in."""

from typing import Any, TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import facts, skipped_files
from fewshot_cli.reports.spreadsheet import Sheet


def to_label(report: dict[str, Any]) -> RenderableType:
    """The pictures, what the classifier makes of them, and what a label is worth beside the first one's."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("label next", overflow="fold")
    table.add_column("worth", justify="right")
    table.add_column("looks like")
    table.add_column("others like it", justify="right", style="dim")
    for row in report["pictures"]:
        (first, p), (second, q) = row["top"]
        guess = f"{first} {p:.2f} or {second} {q:.2f}"
        table.add_row(Text(row["path"]), f"{row['worth']:.2f}", Text(guess), str(row["alike"]))
    if report.get("list"):
        learn = f"fewshot correct {report['file']} {report['list']} --in-place"
        how = f"fill in the column `correct` of {report['list']}, then `{learn}`"
    else:
        how = "--csv OUT writes a list to fill in, which `fewshot correct` learns from"
    known = f", {report['known']} known already or copies" if report["known"] else ""
    return Group(
        table,
        Text(),
        facts(
            ("pictures", f"{report['images']} without a label{known}"),
            *skipped_files(report["skipped"]),
            ("then", how),
        ),
    )


def to_fill_in(report: dict[str, Any], file: TextIO) -> None:
    """The list with an empty column for the right labels."""
    sheet = Sheet(file, ("path", "label", "probability", "correct"))
    sheet.add([row | {"correct": None} for row in report["pictures"]])
