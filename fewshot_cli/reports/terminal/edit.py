"""What became of a classifier whose classes or labels were changed."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, percent, size, skipped_files
from fewshot_cli.results import ExpectedAccuracy, Skipped

MOST = 10  # corrected pictures to name


def edited(report: dict[str, Any]) -> RenderableType:
    """The report of `add-class`, `remove-class`, `rename-class` or `correct`, for people."""
    expected = report["expected_accuracy"]
    accuracy = (
        Text(f"not known: {expected['how']}", style="yellow")
        if expected["mean"] is None
        else Text.assemble((expectation(ExpectedAccuracy(**expected)), "bold green"), (f"\n{expected['how']}", "dim"))
    )
    return facts(
        *_done(report),
        *skipped_files([Skipped(**item) for item in report.get("skipped", [])]),
        ("classes", classes(report["classes"])),
        ("images", str(report["images"])),
        *_old_classes(report),
        ("expect", accuracy),
        ("wrote", f"{report['file']}, {size(report['bytes'])}, proved: read back, it is what was made"),
        ("comes from", f"{report['from']['file']}, sha256 {report['from']['sha256'][:12]}"),
    )


def _done(report: dict[str, Any]) -> list[tuple[str, str | Text]]:
    """What was changed, a row for each kind."""
    said = {"added": "added", "more": "more images", "removed": "removed"}
    rows: list[tuple[str, str | Text]] = [
        (word, ", ".join(f"{name} ({_images(count)})" for name, count in report[key].items()))
        for key, word in said.items()
        if report.get(key)
    ]
    rows += [("renamed", f"{old} is now {new}") for old, new in report.get("renamed", {}).items()]
    wrong = report.get("corrected", [])
    rows += [("corrected", f"{item['path']}: {item['was']} is now {item['is']}") for item in wrong[:MOST]]
    if len(wrong) > MOST:
        rows.append(("corrected", f"and {len(wrong) - MOST} more"))
    if report.get("learned"):
        rows.append(("learned from", f"{_images(report['learned'])} that it didn't know"))
    return rows


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _old_classes(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The accuracy on images of the classes there were before, without and with the change; none where answers stay."""
    old = report.get("old")
    if not old:
        return []
    what = f"{percent(report['accuracy_before'])} before, {percent(report['accuracy_after'])} after"
    return [("old classes", f"{what}; {_images(old['n'])}, each left out once")]
