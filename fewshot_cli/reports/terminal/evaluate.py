"""What `eval` found, with a picture of what is taken for what."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import classes, facts, interval, one_line, percent, skipped_files

MOST_CLASSES = 12  # of which the confusion matrix still fits a terminal


def evaluated(report: dict[str, Any]) -> RenderableType:
    """The report of one evaluation, for people."""
    found = Text(interval(report, "accuracy"), style="bold green")
    expected = report["expected_accuracy"] or {}
    rows: list[tuple[str, str | Text]] = [
        ("classes", classes(report["classes"])),
        ("images", str(report["n"])),
        *skipped_files(report["skipped"]),
        ("accuracy", found),
    ]
    if expected.get("mean") is not None:
        rows.append(("expected", Text(f"{interval(expected)}, {expected['how']}", style="dim")))
    rows.append(
        ("calibration", f"probabilities are off by {percent(report['ece'])} on average (expected calibration error)")
    )
    if report["learned_from"]:
        warning = f"{report['learned_from']} of these images were learned from: the accuracy is better than on new ones"
        rows.append(("beware", Text(warning, style="bold yellow")))
    if report.get("record"):
        rows.append(("record", report["record"]))
    small = len(report["classes"]) <= MOST_CLASSES
    return Group(facts(*rows), Text(), _confusion(report) if small else _worst(report))


def repeated(report: dict[str, Any]) -> RenderableType:
    """That a run's figures were all found again."""
    what = f"{len(report['recipes'])} recipes on {len(report['rows'])} data sets"
    return Text(f"{report['checked']}: {what}, {report['episodes']} episodes each, all found again", style="green")


def _confusion(report: dict[str, Any]) -> RenderableType:
    """True classes as rows, answers as columns, each cell shaded by its share of the row."""
    names, counts = report["classes"], report["confusion"]
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


def by_class(report: dict[str, Any]) -> list[dict[str, Any]]:
    """For every class that was asked about, the hardest first: how often it is right, and what it is most taken for."""
    names = report["classes"]
    rows = []
    for name, found in sorted(report["per_class"].items(), key=lambda item: item[1]["accuracy"]):
        others = dict(zip(names, report["confusion"][names.index(name)], strict=True))
        others.pop(name)
        other = max(others, key=lambda key: others[key], default=None)
        mistaken = other if other is not None and others[other] else None
        rows.append({"name": name, **found, "other": mistaken, "count": others[other] if other and mistaken else 0})
    return rows


def _worst(report: dict[str, Any], most: int = 10) -> RenderableType:
    """The classes with the fewest right answers, and what they are taken for."""
    hardest = [row for row in by_class(report) if row["accuracy"] < 1][:most]
    if not hardest:
        return Text("every class: 100.0 %", style="green")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("class", "right", "most taken for"):
        table.add_column(heading)
    for row in hardest:
        mistaken = Text(f"{row['other']} ({row['count']})") if row["other"] is not None else ""
        table.add_row(Text(row["name"]), f"{percent(row['accuracy'])} of {row['n']}", mistaken)
    return Group(Text("hardest classes", style="dim"), table)
