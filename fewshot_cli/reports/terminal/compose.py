"""What `compose` made of several classifiers, and where they disagree."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import classes, facts, percent, size
from fewshot_cli.results import ComposedAs, ComposedFile, ComposeResult, Disagreement, MergedWeights, SharedClass

MOST_CLASSES = 10


def composed(result: ComposeResult) -> RenderableType:
    """The result of one composition, for people."""
    weights = result.weights
    kept = "" if result.rule == "add" else f", {percent(result.kept)} of each file's values kept"
    scaled = "" if result.scale == 1 else f", times {result.scale:g}"
    rows = facts(
        ("classes", classes(result.classes)),
        *_shared(result.shared_classes),
        ("rule", result.rule + kept + scaled),
        ("weights", _weights(weights)),
        ("kept as", _kept(result.values, weights)),
        ("wrote", f"{result.file}, {size(result.bytes)}, proved: read back, it is what was composed"),
        ("next", f"fewshot eval {result.file} FOLDER measures it; composing says nothing about accuracy"),
    )
    parts: list[RenderableType] = [rows, Text(), _files(result.files)]
    if weights.disagreements:
        parts += [Text(), _layers(weights.disagreements)]
    return Group(*parts)


def _kept(values: ComposedAs, weights: MergedWeights) -> str:
    if not values.exact:
        return f"{values.stored}, rounded"
    if values.stored == "float32" and weights.changed_by_several:
        return "float32, which sums need; --values float16 rounds them and halves the file"
    return values.stored


def _shared(shared: Sequence[SharedClass]) -> list[tuple[str, str | Text]]:
    """A row for each class that several files know, those that differ most first."""
    worst = sorted(shared, key=lambda item: item.cosine)
    rows: list[tuple[str, str | Text]] = [
        (
            "shared",
            Text(
                f"{item.name}: in {len(item.files)} files, averaged; cosine {item.cosine:.2f}",
                style="yellow" if item.cosine < 0.5 else "",
            ),
        )
        for item in worst[:MOST_CLASSES]
    ]
    if len(worst) > MOST_CLASSES:
        rows.append(("shared", f"and {len(worst) - MOST_CLASSES} more"))
    return rows


def _weights(weights: MergedWeights) -> str:
    if not weights.changed_by_one and not weights.changed_by_several:
        return "none is changed by any file"
    if not weights.changed_by_several:
        return f"{weights.changed_by_one} changed, each by one file only"
    return (
        f"{weights.changed_by_one} changed by one file, {weights.changed_by_several} by several; of these "
        f"{percent(weights.signs_agree or 0)} in one direction, and {percent(weights.cancelled)} of the change cancels"
    )


def _files(files: Sequence[ComposedFile]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("file", overflow="fold")
    for heading in ("method", "classes", "changes", "of which survives", "head times"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for item in files:
        table.add_row(
            Text(item.file),
            str(item.method),
            str(len(item.classes)),
            percent(item.density),
            percent(item.survival),
            f"{item.head_factor:.2f}",
        )
    return table


def _layers(layers: Sequence[Disagreement]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("where they disagree most", "changed by several", "in one direction", "cancels"):
        table.add_column(heading, justify="left" if heading.startswith("where") else "right")
    for layer in layers:
        table.add_row(
            Text(layer.parameter),
            str(layer.changed_by_several),
            percent(layer.signs_agree),
            percent(layer.cancelled),
        )
    return table
