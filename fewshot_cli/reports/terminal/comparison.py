"""What `eval` found about recipes, for a terminal; and the words and choices that its other reports share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import facts, one_line, percent, size

Report = dict[str, Any]

OVER_ALL = "over all"
LEVEL = 0.05  # of an error, above which a difference is not shown
MOST_COLUMNS = 6  # recipes beside each other
MOST_PAIRS = 15  # comparisons that one still reads
NARROW = 70  # columns of a terminal, below which there is no room for every number


def compared(report: Report) -> RenderableType:
    """The report of recipes on many episodes: accuracies, which of them differ, and what they cost."""
    parts: list[RenderableType] = [facts(*_circumstances(report)), Text(), _Accuracies(report)]
    if len(report["methods"]) > 1:
        parts.append(Text(f"{meaning(report)}; * {LEADING}", style="dim"))
        parts += [Text(), Text(comparisons(report), style="dim"), _Pairs(report)]
    else:
        parts.append(Text(meaning(report), style="dim"))
    if sessions(report):
        parts += [Text(), Text("from the first session to the last", style="dim"), _sessions(report)]
    return Group(*parts, Text(), Text(COSTS, style="dim"), _costs(report))


# What all reports say.

LEADING = "the best, and what is not shown to differ from it (the 95 % interval of the paired difference holds 0)"
COSTS = "per task: expected calibration error (ECE), -ln p of the true class, time and bytes; means, of time the median"


def meaning(report: Report) -> str:
    """What a cell of the table of accuracies is."""
    episodes = report["episodes"]
    what = f"accuracy in %, mean ± 95 % interval (Student's t) over {counted(episodes, 'episode')} per data set"
    names = report.get("transductive")  # which records of earlier versions don't have
    return f"{what}; transductive, answering about all queries of a task at once: {said(names)}" if names else what


def comparisons(report: Report) -> str:
    """What a row of the table of pairs is."""
    count = sum(pair["dataset"] is None for pair in report["pairs"])
    which = "" if len(shown_pairs(report)) == count else ", the best against every other"
    adjusted = f"; p adjusted for all {count} comparisons (Holm)" if count > 1 else ""
    return f"differences in points with 95 % intervals, paired by episode (t test){which}{adjusted}"


def protocol(report: Report) -> str:
    """How episodes were drawn, in words."""
    settings = {key: value for key, value in report["protocol"].items() if key != "name" and value is not None}
    name = report["protocol"]["name"]
    if name != "fixed":
        listed = ", ".join(f"{key.replace('_', ' ')} {said(value)}" for key, value in settings.items())
        return f"{name} ({listed})" if listed else str(name)
    classes = "all classes" if settings["way"] == "all" else f"{settings['way']}-way"
    shots = settings["shots"] if isinstance(settings["shots"], list | tuple) else [settings["shots"]]
    return f"{classes}, {said([f'{count}-' for count in shots])}shot, {settings['queries']} queries a class"


def said(value: Any) -> str:
    """A setting as people say it."""
    values = list(dict.fromkeys(value.values())) if isinstance(value, dict) else value
    if not isinstance(values, list | tuple):
        return str(values)
    *others, last = (str(item) for item in values) if values else ("none",)
    return f"{', '.join(others)} and {last}" if others else last


def backbones(report: Report) -> str:
    """The backbone, and the size of pictures as it sees them; whose they are, where recipes differ in them."""
    seen: dict[str, list[str]] = {}
    for recipe in report["methods"]:
        what = f"{_of(report['backbone'], recipe)} at {_pixels(_of(report['image_size'], recipe))}"
        seen.setdefault(what, []).append(recipe)
    if len(seen) == 1:
        return next(iter(seen))
    return "; ".join(f"{what} ({said(recipes)})" for what, recipes in seen.items())


def _of(facts: Any, recipe: str) -> Any:
    """What is the recipe's, of a fact that is one for all recipes or one for each."""
    return facts[recipe] if isinstance(facts, dict) else facts


def _pixels(size: int | Sequence[int]) -> str:
    return f"{size} px" if isinstance(size, int) else f"{' x '.join(map(str, size))} px"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def row_names(report: Report) -> list[str]:
    return [row["name"] for row in report["rows"]]


def columns(report: Report) -> list[str | None]:
    """The rows of the report, and None for all of them where they are more than one."""
    names = row_names(report)
    return [*names, None] if len(names) > 1 else [*names]


def ranked(report: Report) -> list[str]:
    """The recipes, the most accurate over all first."""
    return sorted(report["methods"], key=lambda recipe: -report["methods"][recipe]["accuracy"])


def found(report: Report, recipe: str, row: str | None) -> dict[str, Any]:
    """The figures of a recipe in a row; over all where that is None."""
    method: dict[str, Any] = report["methods"][recipe]
    return method if row is None else method["datasets"][row]


def score(figures: dict[str, Any]) -> str:
    """An accuracy with its interval in percent: 83.4 ± 1.0."""
    return _with_interval(f"{100 * figures['accuracy']:.1f}", figures["ci95"], 1)


def points(pair: dict[str, Any]) -> str:
    """A difference with its interval in percent points: +1.24 ± 0.51."""
    return _with_interval(f"{100 * pair['difference']:+.2f}", pair["ci95"], 2)


def _with_interval(mean: str, half_width: float | None, digits: int) -> str:
    return mean if half_width is None else f"{mean} ± {100 * half_width:.{digits}f}"


def leaders(report: Report, row: str | None) -> set[str]:
    """The best of several recipes in a row, and those not shown to differ from it; nobody where there is only one."""
    accuracies = {recipe: found(report, recipe, row)["accuracy"] for recipe in report["methods"]}
    if len(accuracies) < 2:
        return set()
    best = max(accuracies, key=lambda recipe: accuracies[recipe])
    apart = [
        {pair["first"], pair["second"]}
        for pair in report["pairs"]
        if pair["dataset"] == row and pair["p"] is not None and pair["p"] < LEVEL  # so says the interval as well
    ]
    return {recipe for recipe in accuracies if {best, recipe} not in apart}


def shown_pairs(report: Report) -> list[dict[str, Any]]:
    """The comparisons over all, the better first: all of them, or the best against the others where they are many."""
    rank = {recipe: place for place, recipe in enumerate(ranked(report))}
    pairs = [_better_first(pair, rank) for pair in report["pairs"] if pair["dataset"] is None]
    pairs.sort(key=lambda pair: (rank[pair["first"]], rank[pair["second"]]))
    return pairs if len(pairs) <= MOST_PAIRS else [pair for pair in pairs if rank[pair["first"]] == 0]


def _better_first(pair: dict[str, Any], rank: dict[str, int]) -> dict[str, Any]:
    if rank[pair["first"]] < rank[pair["second"]]:
        return pair
    return pair | {
        "first": pair["second"],
        "second": pair["first"],
        "difference": -pair["difference"],
        "wins": pair["losses"],
        "losses": pair["wins"],
    }


def is_shown(pair: dict[str, Any]) -> bool:
    """Whether the two differ, after all comparisons are allowed for."""
    return pair["p_adjusted"] is not None and pair["p_adjusted"] < LEVEL


def verdict(pair: dict[str, Any]) -> str:
    """What a comparison says, in plain words."""
    if pair["p_adjusted"] is None:
        return "too few episodes to say"
    if not is_shown(pair):
        return "no difference shown"
    return f"{pair['first'] if pair['difference'] > 0 else pair['second']} is better"


def p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.0995 else f"{seconds:.2f} s"


def is_balanced(report: Report) -> bool:
    """Whether every class was asked about as often, so that the balanced accuracy is the accuracy."""
    return all(abs(method["accuracy"] - method["balanced_accuracy"]) < 5e-4 for method in report["methods"].values())


@dataclass(frozen=True)
class Course:
    """The rows of one data set that differ in their session only, in order."""

    name: str
    rows: tuple[str, ...]


def sessions(report: Report) -> list[Course]:
    """The class-incremental runs, one for each data set and number of shots."""
    courses: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        if row["session"] is not None:
            courses.setdefault((row["data"], row["shots"]), []).append(row)
    several = len({shots for _, shots in courses}) > 1
    return [
        Course(
            f"{data}, {counted(shots, 'shot')}" if several and shots else data,
            tuple(row["name"] for row in sorted(rows, key=lambda row: row["session"])),
        )
        for (data, shots), rows in courses.items()
    ]


# What only a terminal shows.


def _circumstances(report: Report) -> Iterator[tuple[str, str | Text]]:
    yield "protocol", protocol(report)
    yield "episodes", f"{report['episodes']} per data set, the same for every recipe, seed {report['seed']}"
    yield "backbone", f"{backbones(report)}, on {report['device']}"
    for name, data in report["data"].items():
        if data["skipped"]:
            yield "skipped", Text(f"{counted(len(data['skipped']), 'file')} of {name}", style="yellow")
    for row in report["rows"]:
        if row.get("skipped"):
            yield "skipped", Text(f"{counted(len(row['skipped']), 'file')} of {row['name']}: copies", style="yellow")
    yield "took", f"{report['seconds']['total']:.1f} s"


@dataclass(frozen=True)
class _Accuracies:
    """The table of accuracies in the form that fits: recipes side by side, or else data sets, in blocks if need be."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widest = max(12, options.max_width // 3)
        by_data = self._by_data(widest)
        if len(self.report["methods"]) <= MOST_COLUMNS and _fits(by_data, console, options):
            yield by_data
            return
        shown = columns(self.report)
        for count in range(len(shown), 0, -1):
            blocks = [self._by_recipe(shown[start : start + count], widest) for start in range(0, len(shown), count)]
            if count == 1 or all(_fits(block, console, options) for block in blocks):
                yield from blocks
                return

    def _by_data(self, widest: int) -> Table:
        recipes = list(self.report["methods"])
        table = _table("data", recipes, widest)
        for row in columns(self.report):
            best = leaders(self.report, row)
            cells = [_cell(found(self.report, recipe, row), recipe in best) for recipe in recipes]
            table.add_row(one_line(row or OVER_ALL, style="bold" if row is None else ""), *cells)
        return table

    def _by_recipe(self, shown: Sequence[str | None], widest: int) -> Table:
        table = _table("recipe", [row or OVER_ALL for row in shown], widest)
        best = {row: leaders(self.report, row) for row in shown}
        for recipe in ranked(self.report):
            cells = [_cell(found(self.report, recipe, row), recipe in best[row]) for row in shown]
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


def _cell(figures: dict[str, Any], leads: bool) -> Text:
    return Text(score(figures) + ("*" if leads else " "), style="bold green" if leads else "")


@dataclass(frozen=True)
class _Pairs:
    """The table of pairs; where there is no room, verdicts leave out the name, and then counts and p are left out."""

    report: Report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full = self._table(verdict)
        if _fits(full, console, options):
            yield full
        else:
            yield self._table(_brief_verdict, numbers=options.max_width >= NARROW)

    def _table(self, words: Callable[[dict[str, Any]], str], numbers: bool = True) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
        for heading in ("recipe", "against"):
            table.add_column(heading)
        for heading in ("difference", *(("won", "tied", "lost", "p") if numbers else ())):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        for pair in shown_pairs(self.report):
            counts = [*(str(pair[key]) for key in ("wins", "ties", "losses")), p_value(pair["p_adjusted"])]
            names = (one_line(pair["first"]), one_line(pair["second"]))
            said_of_it = Text(words(pair), style="bold green" if is_shown(pair) else "dim")
            table.add_row(*names, points(pair), *(counts if numbers else ()), said_of_it)
        return table


def _brief_verdict(pair: dict[str, Any]) -> str:
    return "better" if is_shown(pair) else "not shown"


def _sessions(report: Report) -> Table:
    table = _table("data and recipe", ("first", "last", "lost", "mean"))
    for course in sessions(report):
        for recipe in ranked(report):
            accuracies = [found(report, recipe, row)["accuracy"] for row in course.rows]
            first, last = accuracies[0], accuracies[-1]
            cells = (first, last, first - last, sum(accuracies) / len(accuracies))
            table.add_row(one_line(f"{course.name}, {recipe}"), *(f"{100 * cell:.1f}" for cell in cells))
    return table


def _costs(report: Report) -> Table:
    balanced = [] if is_balanced(report) else ["balanced"]
    table = _table("recipe", (*balanced, "ECE", "-ln p", "time", "bytes"))
    for recipe in ranked(report):
        method = report["methods"][recipe]
        table.add_row(
            one_line(recipe),
            *(percent(method["balanced_accuracy"]) for _ in balanced),
            percent(method["ece"]),
            f"{method['nll']:.3f}",
            duration(method["seconds"]),
            size(round(method["bytes"])),
        )
    return table
