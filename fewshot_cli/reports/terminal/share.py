"""What was pushed to the hub or pulled from it, for people."""

import shlex
from typing import Any

from rich.console import RenderableType

from fewshot_cli.reports.layout import classes, expectation, facts, size
from fewshot_cli.reports.licences import is_non_commercial, is_timms_word
from fewshot_cli.results import ExpectedAccuracy

Report = dict[str, Any]


def pushed(report: Report) -> RenderableType:
    """What lies where, and what others type."""
    card = f"stays as it is, since {report['card_kept']}" if report["card_kept"] else "written"
    who = "private" if report["private"] else "public"
    return facts(
        ("pushed", f"{report['file']}, {size(report['bytes'])}, {who}" + ", in place of another" * report["replaced"]),
        ("to", report["url"]),
        ("commit", report["commit"]),
        ("README.md", card),
        *_caution(report),
        ("others type", report["pull"]),
    )


def pulled(report: Report) -> RenderableType:
    """What it is, and what to do with it."""
    expected = report.get("expected_accuracy") or {}
    file = shlex.quote(report["file"])
    is_bank = report["kind"] == "bank"
    return facts(
        ("pulled", f"{report['from']} of {report['url']}, at {str(report['commit'])[:12]}"),
        ("wrote", f"{report['file']}, {size(report['bytes'])}; its hash is right"),
        ("is", f"a {'bank' if is_bank else 'classifier'} by {report['method']} on {report['backbone']}"),
        *([("classes", classes(report["classes"]))] if "classes" in report else []),
        *([("expect", expectation(ExpectedAccuracy(**expected)))] if expected.get("mean") is not None else []),
        *_caution(report),
        ("base", f"{report['backbone']} with fingerprint {report['fingerprint'][:12]}; other weights are refused"),
        (
            "next",
            f"fewshot adapt FOLDER --bank {file} -o my.fewshot" if is_bank else f"fewshot predict {file} PHOTOS",
        ),
        *([("", "with --weights FILE, the file of that base")] if not is_timms_word(report["licence"]) else []),
    )


def _caution(report: Report) -> list[tuple[str, str]]:
    """The licence of the base, and what to mind about it."""
    licence = report["licence"]
    if licence == "unknown":
        return [("licence", "of the base not known: its weights came from a file")]
    return [("licence", f"of the base: {licence}" + ", no commercial use" * is_non_commercial(licence))]
