"""What meta-tuning found, for people."""

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import facts, percent, size
from fewshot_cli.results import DomainSize, EpochFacts, MetaTuneResult

STEPS = "▁▂▃▄▅▆▇█"


def meta_tuned(result: MetaTuneResult) -> RenderableType:
    """Where the bank is, what it learned from, how it went from epoch to epoch, and what comes next."""
    epochs = result.epochs
    best = epochs[result.best_epoch]
    rows = [
        ("bank", f"{result.file}, {size(result.bytes)}"),
        ("backbone", f"{result.backbone}, {result.image_size} px"),
        ("method", str(result.method)),
        ("practised", f"{result.episodes} tasks from {_domains(result.domains)}"),
        ("kept", f"epoch {best.epoch + 1} of {len(epochs)}" + _accuracy(best)),
        ("loss", _line([epoch.loss for epoch in epochs], "{:.3f}")),
    ]
    if result.accuracy is not None:
        rows.append(("validation", _line([epoch.accuracy or 0.0 for epoch in epochs], "{:.1%}")))
    if best.sparsity is not None and best.router is not None:
        rows.append(("sparsity", _shares(best.sparsity) + "  of the experts' masks"))
        rows.append(("router", _shares(best.router) + "  of each expert in the last task"))
    rows += [("note", note) for note in result.notes]
    rows.append(("time", f"{result.seconds['total'] / 60:.1f} min"))
    after = Text(f"\nNext: fewshot adapt FOLDER --bank {result.file} -o FILE", style="dim")
    table: list[RenderableType] = [Text(), _validation(result)] if best.validation else []
    return Group(facts(*rows), *table, after)


def _accuracy(epoch: EpochFacts) -> str:
    return f", right in {percent(epoch.accuracy or 0.0)} of the validation's queries" if epoch.validation else ""


def _domains(domains: Mapping[str, DomainSize]) -> str:
    return ", ".join(f"{name} ({found.classes} classes)" for name, found in domains.items())


def _line(values: list[float], spelled: str) -> str:
    """The values as a curve, with the first and the last in numbers."""
    low, high = min(values), max(values)
    steps = [
        STEPS[round((len(STEPS) - 1) * (value - low) / (high - low))] if high > low else STEPS[0] for value in values
    ]
    return f"{spelled.format(values[0])} {''.join(steps)} {spelled.format(values[-1])}"


def _shares(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.2f}" for share in shares)


def _validation(result: MetaTuneResult) -> Table:
    """The accuracy on each validation domain, after the first epoch and of the bank that is kept."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("validation on", "first epoch", "kept"):
        table.add_column(heading, justify="left" if heading == "validation on" else "right")
    first = result.epochs[0].validation
    for name, found in result.datasets.items():
        table.add_row(name, percent(first[name]), percent(found.accuracy))
    return table
