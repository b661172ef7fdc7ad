"""What `adapt` understood, what it did, and what accuracy to expect."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import classes, facts, interval, left_out, percent, size, skipped_files

CAUTION = "rather too low, since each was judged by what was learned from the others"


def adapted(report: dict[str, Any]) -> RenderableType:
    """The report of one adaptation, for people."""
    counts = [item["n"] for item in report["per_class"].values()]
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    expected = report["expected_accuracy"]
    if expected["mean"] is None:
        accuracy = Text(f"not known: {expected['how']}", style="yellow")
    else:
        how = f"\n{expected['how']}; {CAUTION}"
        accuracy = Text.assemble((interval(expected), "bold green"), (how, "dim"))
    moved = (
        "a graft on its layers"
        if report.get("graft")
        else "its weights stay as they are"
        if report["density"] == 0
        else f"{percent(report['density'])} of its weights moved"
    )
    bank = [("bank", f"{report['bank']['file']}, {report['bank']['digest'][:12]}")] if report["bank"] else []
    seconds = report["seconds"]
    return facts(
        ("classes", classes(report["classes"])),
        ("images", f"{report['images']}, {spread} a class"),
        *skipped_files(report["skipped"]),
        *left_out(report["left_out"]),
        ("method", f"{_named(report)} on {report['backbone']}; {moved}"),
        *bank,
        ("expect", accuracy),
        *pruned(report["pruning"]),
        ("wrote", f"{report['file']}, {size(report['bytes'])}, proved: read back, it gives the same answers"),
        *_rounded(report["values"]),
        (
            "took",
            f"{seconds['total']:.1f} s"
            + "".join(f", {name} {spent:.1f}" for name, spent in seconds.items() if name != "total"),
        ),
    )


def _rounded(values: dict[str, Any]) -> list[tuple[str, str]]:
    """What it costs to keep fewer digits; nothing where it moves no answer and is what is done for everybody."""
    if values["stored"] in ("float32", "float16") and values["top1_agreement"] == 1:
        return []
    alike = f"{values['stored']}: {percent(values['top1_agreement'])} of the answers are as before rounding"
    if values["accuracy"] is None:
        return [("values", alike)]
    held = f"accuracy {percent(values['accuracy'])}, {percent(values['accuracy_before'])} before"
    return [("values", f"{alike}; {held}")]


def pruned(pruning: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What it costs to let the bank move fewer weights; nothing where it moves all that it would."""
    if pruning is None:
        return []
    moved = f"{percent(pruning['density'])} of the weights moved, {percent(pruning['density_before'])} without pruning"
    if pruning["accuracy"] is None:
        return [("pruning", moved)]
    return [
        ("pruning", f"{moved}; accuracy {percent(pruning['accuracy'])}, {percent(pruning['accuracy_before'])} without")
    ]


def _named(report: dict[str, Any]) -> str:
    """The method, with a head that took the place of the one trained along, and what is transductive marked."""
    name = f"{report['method']}, then {report['head']}" if report.get("head") else str(report["method"])
    return f"{name} (transductive: answers about all pictures at once)" if report.get("transductive") else name
