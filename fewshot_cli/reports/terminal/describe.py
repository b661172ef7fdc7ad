"""What a delta file or a bank holds, for people."""

import math
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, percent, size
from fewshot_cli.reports.terminal.bank import bank_shown
from fewshot_cli.reports.terminal.lineage import chain_shown
from fewshot_cli.results import ExpectedAccuracy

MOST_CHANGES = 24
MOST_TEXTS = 3


def inspected(report: dict[str, Any]) -> RenderableType:
    """The facts of a bank with maps of its experts, or of a delta file with how much of each parameter it changes.

    Below them is where it comes from.
    """
    shown = bank_shown(report) if "experts" in report else _delta_shown(report)
    return Group(shown, Text(), Text("comes from", style="dim"), chain_shown(report["chain"]))


def _delta_shown(report: dict[str, Any]) -> RenderableType:
    expected = report.get("expected_accuracy") or {}
    height, width = report["image_size"]
    rows = facts(
        ("file", f"{report['file']}, {size(report['bytes'])}"),
        ("backbone", f"{report['backbone']}, {height} x {width} px, licence {report['licence']}"),
        ("base", f"sha256 {report['fingerprint']}"),
        ("content", f"sha256 {report['sha256']}"),
        ("method", str(report["method"])),
        ("classes", classes(report["classes"], most=30)),
        (
            "head",
            _transductive(report["head"])
            or f"{len(report['classes'])} x {report['head']['dim']}"
            + (" on unit-norm features" if report["head"]["unit_norm"] else "")
            + f", {report['head']['values']}",
        ),
        ("changes", _changed(report)),
        *_told(report),
        *_sections(report),
        (
            "learned from",
            f"{report.get('images')} images, sha256 {str(report.get('data'))[:16]}..., seed {report.get('seed')}",
        ),
        *([("from bank", f"sha256 {report['bank']}")] if report.get("bank") else []),
        (
            "expect",
            expectation(ExpectedAccuracy(**expected)) if expected else "unknown",
        ),
        ("made with", ", ".join(f"{name} {number}" for name, number in report.get("versions", {}).items())),
    )
    return Group(rows, Text(), _changes(report["changes"])) if report["changes"] else rows


def _told(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What a text tower was told of the first classes, where there is one."""
    texts = report.get("texts") or {}
    some = [f"{name}: {' | '.join(told[:MOST_TEXTS])}" for name, told in list(texts.items())[:MOST_TEXTS]]
    more = [f"... and of {len(texts) - MOST_TEXTS} more"] if len(texts) > MOST_TEXTS else []
    return [("texts", "\n".join(some + more))] if some else []


def _transductive(head: dict[str, Any]) -> str:
    """Of a head that answers from all queries at once its method; nothing of others."""
    settings = head.get("transductive")
    return f"{settings['name']}, transductive: answers about all pictures at once" if settings else ""


def _sections(report: dict[str, Any]) -> list[tuple[str, str]]:
    """What files of version 3 have besides."""
    graft, support = report.get("graft"), report.get("support")
    rows = []
    if graft:
        places = f"{len(graft['sites'])} places" if len(graft["sites"]) > 1 else graft["sites"][0] or "the backbone"
        rows.append(("graft", f"a {graft['kind']['name']} on {places}, {graft['values']:,} values; it can't be merged"))
    if support:
        rows.append(("support set", f"features of {support['images']} images, {size(support['bytes'])}"))
    return rows


def _changed(report: dict[str, Any]) -> str:
    if not report["changes"]:
        return "none: the backbone stays as it is"
    return (
        f"{percent(report['density'])} of the backbone's weights, in {len(report['changes'])} parameters; "
        f"{report['bytes_per_changed_weight']:.3g} bytes of the file for each"
    )


def _changes(changes: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("parameter", "form", "values", "changed", ""):
        table.add_column(heading)
    for change in sorted(changes, key=lambda change: -change["changed"])[:MOST_CHANGES]:
        share = change["changed"] / math.prod(change["shape"])
        table.add_row(
            change["parameter"],
            change["form"],
            change["values"],
            f"{change['changed']} ({percent(share)})",
            "█" * max(1, round(30 * share)),
        )
    if len(changes) > MOST_CHANGES:
        table.add_row(f"and {len(changes) - MOST_CHANGES} more", "", "", "", "")
    return table
