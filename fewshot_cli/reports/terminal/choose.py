"""Which recipe suits a folder, as a table."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import percent
from fewshot_cli.results import Candidate, ChooseResult


def compared(result: ChooseResult) -> RenderableType:
    """A row for each candidate, the chosen one in bold, and the advice on training."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    several = len({candidate.backbone for candidate in result.candidates}) > 1
    for title in ("recipe", *(["backbone"] if several else []), "held-out accuracy", "seconds", "why"):
        table.add_column(title, no_wrap=title == "recipe")
    for candidate in result.candidates:
        cells = [candidate.recipe, *([candidate.backbone] if several else []), _accuracy(candidate)]
        style = "bold green" if candidate.chosen else ""
        table.add_row(*cells, f"{candidate.seconds:.1f}", candidate.why, style=style)
    return Group(table, Text(result.advice, style="dim"))


def _accuracy(candidate: Candidate) -> str:
    if candidate.accuracy is None or candidate.low is None or candidate.high is None:
        return "not known"
    return f"{percent(candidate.accuracy)}  ({100 * candidate.low:.0f} to {100 * candidate.high:.0f} %)"
