"""What meta-tuning found, for people."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import facts, percent, size

STEPS = "▁▂▃▄▅▆▇█"


def meta_tuned(report: dict[str, Any]) -> RenderableType:
    """Where the bank is, what it learned from, how it went from epoch to epoch, and what comes next."""
    epochs = report["epochs"]
    best = epochs[report["best_epoch"]]
    rows = [
        ("bank", f"{report['file']}, {size(report['bytes'])}"),
        ("backbone", f"{report['backbone']}, {report['image_size']} px"),
        ("method", str(report["method"])),
        ("practised", f"{report['episodes']} tasks from {_domains(report['domains'])}"),
        ("kept", f"epoch {best['epoch'] + 1} of {len(epochs)}" + _accuracy(best)),
        ("loss", _line([epoch["loss"] for epoch in epochs], "{:.3f}")),
    ]
    if report["accuracy"] is not None:
        rows.append(("validation", _line([epoch["accuracy"] for epoch in epochs], "{:.1%}")))
    if "sparsity" in best:
        rows.append(("sparsity", _shares(best["sparsity"]) + "  of the experts' masks"))
        rows.append(("router", _shares(best["router"]) + "  of each expert in the last task"))
    rows += [("note", note) for note in report["notes"]]
    rows.append(("time", f"{report['seconds']['total'] / 60:.1f} min"))
    after = Text(f"\nNext: fewshot adapt FOLDER --bank {report['file']} -o FILE", style="dim")
    table: list[RenderableType] = [Text(), _validation(report)] if best["validation"] else []
    return Group(facts(*rows), *table, after)


def _accuracy(epoch: dict[str, Any]) -> str:
    return f", right in {percent(epoch['accuracy'])} of the validation's queries" if epoch["validation"] else ""


def _domains(domains: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({facts['classes']} classes)" for name, facts in domains.items())


def _line(values: list[float], spelled: str) -> str:
    """The values as a curve, with the first and the last in numbers."""
    low, high = min(values), max(values)
    steps = [
        STEPS[round((len(STEPS) - 1) * (value - low) / (high - low))] if high > low else STEPS[0] for value in values
    ]
    return f"{spelled.format(values[0])} {''.join(steps)} {spelled.format(values[-1])}"


def _shares(shares: list[float]) -> str:
    return " ".join(f"{share:.2f}" for share in shares)


def _validation(report: dict[str, Any]) -> Table:
    """The accuracy on each validation domain, after the first epoch and of the bank that is kept."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("validation on", "first epoch", "kept"):
        table.add_column(heading, justify="left" if heading == "validation on" else "right")
    first = report["epochs"][0]["validation"]
    for name, found in report["datasets"].items():
        table.add_row(name, percent(first[name]), percent(found["accuracy"]))
    return table
