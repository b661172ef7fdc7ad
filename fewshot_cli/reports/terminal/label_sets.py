"""Several labels an image: what to expect of each class, and what `eval` found."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, interval, percent, skipped_files
from fewshot_cli.results import AdaptResult, LabelSetsResult, OfLabel


def several(thresholds: Mapping[str, float]) -> str:
    """Above which probability an image has each label."""
    each = ", ".join(f"{name} {share:.2f}" for name, share in thresholds.items())
    return f"several an image, each above its probability: {each}"


def expected_of_each(result: AdaptResult) -> list[tuple[str, str]]:
    """What was held out says of each class; nothing where an image has one label."""
    found = result.several_labels
    if found is None:
        return []
    lines = [f"macro F1 {percent(found.macro_f1)}"]
    for name, each in found.per_class.items():
        shares = f"precision {_share(each.precision)}, recall {_share(each.recall)}"
        lines.append(f"{name}: {shares}, given above a probability of {each.threshold:.2f}")
    return [("each label", "\n".join(lines))]


def evaluated_sets(result: LabelSetsResult) -> RenderableType:
    """The report of one evaluation, for people."""
    rows: list[tuple[str, str | Text]] = [
        ("classes", classes(result.classes)),
        ("images", str(result.n)),
        *skipped_files(result.skipped),
        ("exact match", Text(interval(result.accuracy, result.low, result.high), style="bold green")),
        ("macro F1", _share(result.macro_f1)),
    ]
    if result.expected_accuracy.mean is not None:
        expected = f"{expectation(result.expected_accuracy)}, {result.expected_accuracy.how}"
        rows.append(("expected", Text(expected, style="dim")))
    if result.learned_from:
        warning = f"{result.learned_from} of these images were learned from: the answers are better than on new ones"
        rows.append(("beware", Text(warning, style="bold yellow")))
    if result.record:
        rows.append(("record", result.record))
    return Group(facts(*rows), Text(), _table(result.per_class))


def _table(per_class: Mapping[str, OfLabel]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class")
    for heading in ("images", "precision", "recall", "F1"):
        table.add_column(heading, justify="right")
    for name, each in per_class.items():
        table.add_row(Text(name), str(each.n), _share(each.precision), _share(each.recall), _share(each.f1))
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)
