"""The pictures to label next, as a table and as a list to fill in."""

from typing import TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import facts, skipped_files
from fewshot_cli.reports.spreadsheet import Sheet
from fewshot_cli.results import NextResult


def to_label(result: NextResult) -> RenderableType:
    """The pictures, what the classifier makes of them, and what a label is worth beside the first one's."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("label next", overflow="fold")
    table.add_column("worth", justify="right")
    table.add_column("looks like")
    table.add_column("others like it", justify="right", style="dim")
    for row in result.pictures:
        guess = " or ".join(f"{name} {share:.2f}" for name, share in row.top)
        table.add_row(Text(row.path), f"{row.worth:.2f}", Text(guess), str(row.alike))
    if result.list:
        learn = f"fewshot correct {result.file} {result.list} --in-place"
        how = f"fill in the column `correct` of {result.list}, then `{learn}`"
    else:
        how = "--csv OUT writes a list to fill in, which `fewshot correct` learns from"
    known = f", {result.known} known already or copies" if result.known else ""
    rows = facts(("pictures", f"{result.images} without a label{known}"), *skipped_files(result.skipped), ("then", how))
    return Group(table, Text(), rows)


def to_fill_in(result: NextResult, file: TextIO) -> None:
    """The list with an empty column for the right labels."""
    sheet = Sheet(file, ("path", "label", "probability", "correct"))
    sheet.add_cells((row.path, row.label, row.probability, None) for row in result.pictures)
