"""What `adapt` understood, what it did, and what accuracy to expect."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import classes, facts, interval, percent, size, skipped_files


def adapted(report: dict[str, Any]) -> RenderableType:
    """The report of one adaptation, for people."""
    counts = [item["n"] for item in report["per_class"].values()]
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    expected = report["expected_accuracy"]
    if expected["mean"] is None:
        accuracy = Text(f"can't be known from these images ({expected['how']})", style="yellow")
    else:
        accuracy = Text(interval(expected), style="bold green") + Text(f"\n{expected['how']}", style="dim")
    moved = (
        "its weights stay as they are"
        if report["density"] == 0
        else f"{percent(report['density'])} of its weights moved"
    )
    seconds = report["seconds"]
    return facts(
        ("classes", classes(report["classes"])),
        ("images", f"{report['images']}, {spread} a class"),
        *skipped_files(report["skipped"]),
        ("method", f"{report['method']} on {report['backbone']}; {moved}"),
        ("expect", accuracy),
        ("wrote", f"{report['file']}, {size(report['bytes'])}, proved: read back, it gives the same answers"),
        (
            "took",
            f"{seconds['total']:.1f} s"
            + "".join(f", {name} {spent:.1f}" for name, spent in seconds.items() if name != "total"),
        ),
    )
