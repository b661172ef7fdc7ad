"""What recipes would cost on a folder, as a table."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import size
from fewshot_cli.results import PlanResult


def planned(result: PlanResult) -> RenderableType:
    """A row for each recipe, and in a line what the figures are of."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("recipe", "seconds", "memory", "file"):
        table.add_column(title, no_wrap=True, justify="left" if title == "recipe" else "right")
    for one in result.candidates:
        table.add_row(one.recipe, f"{one.seconds:.1f}", size(one.memory), size(one.bytes))
    of = f"{result.images} images in {len(result.classes)} classes, seen for the first time, on {result.device}."
    return Group(table, Text(of, style="dim"))
