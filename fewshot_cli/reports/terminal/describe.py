"""What a delta file or a bank holds, for people."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, percent, prepared, size
from fewshot_cli.reports.terminal.bank import bank_shown
from fewshot_cli.reports.terminal.label_sets import several
from fewshot_cli.reports.terminal.lineage import chain_shown
from fewshot_cli.results import AnyInspected, ChangedParameter, HeadFacts, InspectBankResult, InspectDeltaResult

MOST_CHANGES = 24
MOST_TEXTS = 3


def inspected(result: AnyInspected) -> RenderableType:
    """The facts of a bank with maps of its experts, or of a delta file with how much of each parameter it changes.

    Below them is where it comes from.
    """
    shown = bank_shown(result) if isinstance(result, InspectBankResult) else _delta_shown(result)
    return Group(shown, Text(), Text("comes from", style="dim"), chain_shown(result.chain))


def _delta_shown(result: InspectDeltaResult) -> RenderableType:
    height, width = result.image_size
    rows = facts(
        ("file", f"{result.file}, {size(result.bytes)}"),
        ("backbone", f"{result.backbone}, {height} x {width} px, licence {result.licence}"),
        *([("towers", f"{result.towers.activation}; {prepared(result.towers)}")] if result.towers else []),
        ("base", f"sha256 {result.fingerprint}"),
        ("content", f"sha256 {result.sha256}"),
        ("method", str(result.method)),
        ("classes", classes(result.classes, most=30)),
        (
            "head",
            _transductive(result.head)
            or f"{len(result.classes)} x {result.head.dim}"
            + (" on unit-norm features" if result.head.unit_norm else "")
            + f", {result.head.values}",
        ),
        *([("labels", several(result.thresholds))] if result.thresholds else []),
        ("changes", _changed(result)),
        *_told(result),
        *_sections(result),
        (
            "learned from",
            f"{result.images} images, sha256 {result.data[:16]}..., seed {result.seed}",
        ),
        *([("from bank", f"sha256 {result.bank}")] if result.bank else []),
        ("expect", expectation(result.expected_accuracy)),
        ("made with", ", ".join(f"{name} {number}" for name, number in result.versions.items())),
    )
    return Group(rows, Text(), _changes(result.changes)) if result.changes else rows


def _told(result: InspectDeltaResult) -> list[tuple[str, str]]:
    """What a text tower was told of the first classes, where there is one."""
    texts = result.texts or {}
    some = [f"{name}: {' | '.join(told[:MOST_TEXTS])}" for name, told in list(texts.items())[:MOST_TEXTS]]
    more = [f"... and of {len(texts) - MOST_TEXTS} more"] if len(texts) > MOST_TEXTS else []
    return [("texts", "\n".join(some + more))] if some else []


def _transductive(head: HeadFacts) -> str:
    """Of a head that answers from all queries at once its method; nothing of others."""
    settings = head.transductive
    return f"{settings['name']}, transductive: answers about all pictures at once" if settings else ""


def _sections(result: InspectDeltaResult) -> list[tuple[str, str]]:
    """What files of version 3 have besides."""
    graft, support = result.graft, result.support
    rows = []
    if graft:
        places = f"{len(graft.sites)} places" if len(graft.sites) > 1 else graft.sites[0] or "the backbone"
        rows.append(("graft", f"a {graft.kind['name']} on {places}, {graft.values:,} values; it can't be merged"))
    if support:
        rows.append(("support set", f"features of {support.images} images, {size(support.bytes)}"))
    return rows


def _changed(result: InspectDeltaResult) -> str:
    if not result.changes:
        return "none: the backbone stays as it is"
    return (
        f"{percent(result.density)} of the backbone's weights, in {len(result.changes)} parameters; "
        f"{result.bytes_per_changed_weight:.3g} bytes of the file for each"
    )


def _changes(changes: Sequence[ChangedParameter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("parameter", "form", "values", "changed", ""):
        table.add_column(heading)
    for change in sorted(changes, key=lambda change: -change.changed)[:MOST_CHANGES]:
        share = change.changed / math.prod(change.shape)
        table.add_row(
            change.parameter,
            change.form,
            change.values,
            f"{change.changed} ({percent(share)})",
            "█" * max(1, round(30 * share)),
        )
    if len(changes) > MOST_CHANGES:
        table.add_row(f"and {len(changes) - MOST_CHANGES} more", "", "", "", "")
    return table
