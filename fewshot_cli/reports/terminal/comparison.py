"""What `eval` found about recipes, for a terminal."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.comparison import (
    COSTS,
    LEADING,
    OVER_ALL,
    backbones,
    columns,
    comparisons,
    counted,
    duration,
    found,
    is_balanced,
    is_shown,
    leaders,
    meaning,
    p_value,
    points,
    protocol,
    ranked,
    score,
    sessions,
    shown_pairs,
    verdict,
)
from fewshot_cli.reports.layout import facts, one_line, percent, size
from fewshot_cli.results import ComparisonResult, Figures, Pair

MOST_COLUMNS = 6  # recipes beside each other
NARROW = 70  # columns of a terminal, below which there is no room for every number


def compared(result: ComparisonResult) -> RenderableType:
    """The report of recipes on many episodes: accuracies, which of them differ, and what they cost."""
    parts: list[RenderableType] = [facts(*_circumstances(result)), Text(), _Accuracies(result)]
    if len(result.methods) > 1:
        parts.append(Text(f"{meaning(result)}; * {LEADING}", style="dim"))
        parts += [Text(), Text(comparisons(result), style="dim"), _Pairs(result)]
    else:
        parts.append(Text(meaning(result), style="dim"))
    if sessions(result):
        parts += [Text(), Text("from the first session to the last", style="dim"), _sessions(result)]
    return Group(*parts, Text(), Text(COSTS, style="dim"), _costs(result))


def _circumstances(result: ComparisonResult) -> Iterator[tuple[str, str | Text]]:
    yield "protocol", protocol(result)
    yield "episodes", f"{result.episodes} per data set, the same for every recipe, seed {result.seed}"
    yield "backbone", f"{backbones(result)}, on {result.device}"
    for name, data in result.data.items():
        if data.skipped:
            yield "skipped", Text(f"{counted(len(data.skipped), 'file')} of {name}", style="yellow")
    for row in result.rows:
        if row.skipped:
            yield "skipped", Text(f"{counted(len(row.skipped), 'file')} of {row.name}: copies", style="yellow")
    yield "took", f"{(result.seconds or {}).get('total', 0):.1f} s"


@dataclass(frozen=True)
class _Accuracies:
    """The table of accuracies in the form that fits: recipes side by side, or else data sets, in blocks if need be."""

    result: ComparisonResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widest = max(12, options.max_width // 3)
        by_data = self._by_data(widest)
        if len(self.result.methods) <= MOST_COLUMNS and _fits(by_data, console, options):
            yield by_data
            return
        shown = columns(self.result)
        for count in range(len(shown), 0, -1):
            blocks = [self._by_recipe(shown[start : start + count], widest) for start in range(0, len(shown), count)]
            if count == 1 or all(_fits(block, console, options) for block in blocks):
                yield from blocks
                return

    def _by_data(self, widest: int) -> Table:
        recipes = list(self.result.methods)
        table = _table("data", recipes, widest)
        for row in columns(self.result):
            best = leaders(self.result, row)
            cells = [_cell(found(self.result, recipe, row), recipe in best) for recipe in recipes]
            table.add_row(one_line(row or OVER_ALL, style="bold" if row is None else ""), *cells)
        return table

    def _by_recipe(self, shown: Sequence[str | None], widest: int) -> Table:
        table = _table("recipe", [row or OVER_ALL for row in shown], widest)
        best = {row: leaders(self.result, row) for row in shown}
        for recipe in ranked(self.result):
            cells = [_cell(found(self.result, recipe, row), recipe in best[row]) for row in shown]
            table.add_row(one_line(recipe), *cells)
        return table


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    return Measurement.get(console, options.update(max_width=100_000), table).maximum <= options.max_width


def _table(first: str, others: Sequence[str], widest: int | None = None) -> Table:
    """An empty table: names at the left, to be cut where there is no room, and numbers at the right, which are not."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    table.add_column(first, max_width=widest)
    for name in others:
        table.add_column(Text(name), justify="right", no_wrap=True, overflow="ellipsis", max_width=widest)
    return table


def _cell(figures: Figures, leads: bool) -> Text:
    return Text(score(figures) + ("*" if leads else " "), style="bold green" if leads else "")


@dataclass(frozen=True)
class _Pairs:
    """The table of pairs; where there is no room, verdicts leave out the name, and then counts and p are left out."""

    result: ComparisonResult

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full = self._table(verdict)
        if _fits(full, console, options):
            yield full
        else:
            yield self._table(_brief_verdict, numbers=options.max_width >= NARROW)

    def _table(self, words: Callable[[Pair], str], numbers: bool = True) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
        for heading in ("recipe", "against"):
            table.add_column(heading)
        for heading in ("difference", *(("won", "tied", "lost", "p") if numbers else ())):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for pair in shown_pairs(self.result):
            counts = [*map(str, (pair.wins, pair.ties, pair.losses)), p_value(pair.p_adjusted)]
            names = (one_line(pair.first), one_line(pair.second))
            said_of_it = Text(words(pair), style="bold green" if is_shown(pair) else "dim")
            table.add_row(*names, points(pair), *(counts if numbers else ()), said_of_it)
        return table


def _brief_verdict(pair: Pair) -> str:
    return "better" if is_shown(pair) else "not shown"


def _sessions(result: ComparisonResult) -> Table:
    table = _table("data and recipe", ("first", "last", "lost", "mean"))
    for course in sessions(result):
        for recipe in ranked(result):
            accuracies = [found(result, recipe, row).accuracy for row in course.rows]
            first, last = accuracies[0], accuracies[-1]
            cells = (first, last, first - last, sum(accuracies) / len(accuracies))
            table.add_row(one_line(f"{course.name}, {recipe}"), *(f"{100 * cell:.1f}" for cell in cells))
    return table


def _costs(result: ComparisonResult) -> Table:
    balanced = [] if is_balanced(result) else ["balanced"]
    table = _table("recipe", (*balanced, "ECE", "-ln p", "time", "bytes"))
    for recipe in ranked(result):
        method = result.methods[recipe]
        table.add_row(
            one_line(recipe),
            *(percent(method.balanced_accuracy) for _ in balanced),
            percent(method.ece),
            f"{method.nll:.3f}",
            duration(method.seconds),
            size(round(method.bytes)),
        )
    return table
