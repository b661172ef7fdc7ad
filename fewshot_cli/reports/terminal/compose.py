"""What `compose` made of several classifiers, and where they disagree."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import classes, facts, percent, size

MOST_CLASSES = 10


def composed(report: dict[str, Any]) -> RenderableType:
    """The report of one composition, for people."""
    weights = report["weights"]
    kept = "" if report["rule"] == "add" else f", {percent(report['kept'])} of each file's values kept"
    scaled = "" if report["scale"] == 1 else f", times {report['scale']:g}"
    rows = facts(
        ("classes", classes(report["classes"])),
        *_shared(report["shared_classes"]),
        ("rule", report["rule"] + kept + scaled),
        ("weights", _weights(weights)),
        ("kept as", _kept(report["values"], weights)),
        ("wrote", f"{report['file']}, {size(report['bytes'])}, proved: read back, it is what was composed"),
        ("next", f"fewshot eval {report['file']} FOLDER measures it; composing says nothing about accuracy"),
    )
    parts: list[RenderableType] = [rows, Text(), _files(report["files"])]
    if weights["disagreements"]:
        parts += [Text(), _layers(weights["disagreements"])]
    return Group(*parts)


def _kept(values: dict[str, Any], weights: dict[str, Any]) -> str:
    if not values["exact"]:
        return f"{values['stored']}, rounded"
    if values["stored"] == "float32" and weights["changed_by_several"]:
        return "float32, which sums need; --values float16 rounds them and halves the file"
    return str(values["stored"])


def _shared(shared: list[dict[str, Any]]) -> list[tuple[str, str | Text]]:
    """A row for each class that several files know, those that differ most first."""
    worst = sorted(shared, key=lambda item: item["cosine"])
    rows: list[tuple[str, str | Text]] = [
        (
            "shared",
            Text(
                f"{item['class']}: in {len(item['files'])} files, averaged; cosine {item['cosine']:.2f}",
                style="yellow" if item["cosine"] < 0.5 else "",
            ),
        )
        for item in worst[:MOST_CLASSES]
    ]
    if len(worst) > MOST_CLASSES:
        rows.append(("shared", f"and {len(worst) - MOST_CLASSES} more"))
    return rows


def _weights(weights: dict[str, Any]) -> str:
    if not weights["changed_by_one"] and not weights["changed_by_several"]:
        return "none is changed by any file"
    if not weights["changed_by_several"]:
        return f"{weights['changed_by_one']} changed, each by one file only"
    return (
        f"{weights['changed_by_one']} changed by one file, {weights['changed_by_several']} by several; of these "
        f"{percent(weights['signs_agree'])} in one direction, and {percent(weights['cancelled'])} of the change cancels"
    )


def _files(files: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("file", overflow="fold")
    for heading in ("method", "classes", "changes", "of which survives", "head times"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for item in files:
        table.add_row(
            Text(item["file"]),
            str(item["method"]),
            str(len(item["classes"])),
            percent(item["density"]),
            percent(item["survival"]),
            f"{item['head_factor']:.2f}",
        )
    return table


def _layers(layers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("where they disagree most", "changed by several", "in one direction", "cancels"):
        table.add_column(heading, justify="left" if heading.startswith("where") else "right")
    for layer in layers:
        table.add_row(
            Text(layer["parameter"]),
            str(layer["changed_by_several"]),
            percent(layer["signs_agree"]),
            percent(layer["cancelled"]),
        )
    return table
