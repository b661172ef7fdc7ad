"""What `eval` found, with a picture of what is taken for what."""

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, interval, one_line, percent, skipped_files
from fewshot_cli.results import EvalResult, KeptPromise, RecordedEvalResult, RepeatedResult

MOST_CLASSES = 12  # of which the confusion matrix still fits a terminal


def evaluated(result: EvalResult) -> RenderableType:
    """The report of one evaluation, for people."""
    found = Text(interval(result.accuracy, result.low, result.high), style="bold green")
    expected = result.expected_accuracy
    rows: list[tuple[str, str | Text]] = [
        ("classes", classes(result.classes)),
        ("images", str(result.n)),
        *skipped_files(result.skipped),
        ("accuracy", found),
    ]
    if expected.mean is not None:
        rows.append(("expected", Text(f"{expectation(expected)}; {_kept(result)}", style="dim")))
    rows.append(
        ("calibration", f"probabilities are off by {percent(result.ece)} on average (expected calibration error)")
    )
    rows += promises(result)
    if result.learned_from:
        warning = f"{result.learned_from} of these images were learned from: the accuracy is better than on new ones"
        rows.append(("beware", Text(warning, style="bold yellow")))
    if isinstance(result, RecordedEvalResult) and result.record:
        rows.append(("record", result.record))
    small = len(result.classes) <= MOST_CLASSES
    return Group(facts(*rows), Text(), _confusion(result) if small else _worst(result))


def promises(result: EvalResult) -> list[tuple[str, str]]:
    """What came of --refuse and --sets, a line each."""
    lines = []
    if (came := result.refused) is not None:
        lines.append(("refused", f"{_share(came)} of {came.n} pictures of the classes; {_promised(came)}"))
    if (came := result.refused_unknown) is not None:
        lines.append(("unknown", f"{_share(came)} of {came.n} pictures of something else are refused"))
    if (came := result.covered) is not None:
        size = f"{result.set_size:.1f} labels on average"
        lines.append(("label sets", f"{_share(came)} hold the true one; {_promised(came)}; {size}"))
    return lines


def _share(came: KeptPromise) -> str:
    return interval(came.share, came.low, came.high)


def _promised(came: KeptPromise) -> str:
    return "" if came.promised is None else f"{percent(came.promised)} was promised"


def _kept(result: EvalResult) -> str:
    """Whether the accuracy lies in the interval that was promised."""
    low, high = result.expected_accuracy.low or 0.0, result.expected_accuracy.high or 1.0
    if low <= result.accuracy <= high:
        return "what came lies in it"
    return f"what came lies {'below' if result.accuracy < low else 'above'} it"


def repeated(result: RepeatedResult) -> RenderableType:
    """That a run's figures were all found again."""
    what = f"{len(result.recipes)} recipes on {len(result.rows)} data sets"
    return Text(f"{result.checked}: {what}, {result.episodes} episodes each, all found again", style="green")


def _confusion(result: EvalResult) -> RenderableType:
    """True classes as rows, answers as columns, each cell shaded by its share of the row."""
    names, counts = result.classes, result.confusion
    width = len(str(len(names)))
    table = Table(box=None, padding=0, header_style="dim")
    table.add_column("")
    for number in range(len(names)):
        table.add_column(f"{number + 1} ", justify="right", no_wrap=True)
    table.add_column("right", justify="right", no_wrap=True)
    for number, (name, row) in enumerate(zip(names, counts, strict=True)):
        total = sum(row)
        cells = [_cell(count, total, number == column) for column, count in enumerate(row)]
        right = f"  {percent(row[number] / total)}" if total else "  none asked"
        table.add_row(one_line(f"{number + 1:>{width}} {name}  "), *cells, right)
    return Group(Text("rows: true class; columns: answer", style="dim"), table)


def _cell(count: int, total: int, right: bool) -> Text:
    share = count / total if total else 0.0
    depth = round(200 * share)
    colour = f"rgb({220 - depth},255,{220 - depth})" if right else f"rgb(255,{235 - depth},{235 - depth})"
    return Text(f" {count} " if count else " · ", style=f"black on {colour}" if count else "dim")


@dataclass(frozen=True)
class ClassRow:
    """A class: how often it is right, and the `count` of answers that took it for the `other` class most often."""

    name: str
    n: int
    accuracy: float
    other: str | None
    count: int


def by_class(result: EvalResult) -> list[ClassRow]:
    """For every class that was asked about, the hardest first: how often it is right, and what it is most taken for."""
    rows = []
    for name, found in sorted(result.per_class.items(), key=lambda item: item[1].accuracy):
        others = dict(zip(result.classes, result.confusion[result.classes.index(name)], strict=True))
        others.pop(name)
        other = max(others, key=lambda key: others[key], default=None)
        count = others[other] if other is not None else 0
        rows.append(ClassRow(name, found.n, found.accuracy, other if count else None, count))
    return rows


def _worst(result: EvalResult, most: int = 10) -> RenderableType:
    """The classes with the fewest right answers, and what they are taken for."""
    hardest = [row for row in by_class(result) if row.accuracy < 1][:most]
    if not hardest:
        return Text("every class: 100.0 %", style="green")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("class", "right", "most taken for"):
        table.add_column(heading)
    for row in hardest:
        mistaken = Text(f"{row.other} ({row.count})") if row.other is not None else ""
        table.add_row(Text(row.name), f"{percent(row.accuracy)} of {row.n}", mistaken)
    return Group(Text("hardest classes", style="dim"), table)
