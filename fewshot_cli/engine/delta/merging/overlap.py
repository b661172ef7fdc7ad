"""Where several deltas on one base meet, how far they agree, and what is left of each in a composed one."""

from collections.abc import Sequence
from dataclasses import dataclass

from fewshot_cli.engine.delta.change import Delta
from fewshot_cli.engine.delta.merging.sums import aligned, parameters


@dataclass(frozen=True)
class Overlap:
    """How several deltas meet in one parameter.

    Of its weights, `alone` are changed by one delta and `shared` by more; in `agreeing` of the shared all changes have
    one sign. `mass` is the sum of the magnitudes of the shared ones' changes, `cancelled` what of it their sum lacks.
    """

    parameter: str
    alone: int
    shared: int
    agreeing: int
    mass: float
    cancelled: float


def overlaps(deltas: Sequence[Delta]) -> list[Overlap]:
    """How the deltas meet, for each parameter that any of them changes."""
    found = []
    for name in parameters(deltas):
        _, values = aligned([delta[name] for delta in deltas if name in delta])
        changing = (values != 0).sum(0)
        shared = values[:, changing > 1].double()
        agreeing = (shared >= 0).all(0) | (shared <= 0).all(0)
        mass = float(shared.abs().sum())
        cancelled = mass - float(shared.sum(0).abs().sum())
        alone = int((changing == 1).sum())
        found.append(Overlap(name, alone, shared.shape[1], int(agreeing.sum()), mass, max(0.0, cancelled)))
    return found


def survival(delta: Delta, composed: Delta) -> float:
    """How much of the delta is left in the composed one: its length along the delta, relative to the delta's.

    1 where nothing was lost, 0 where all was, more where others push the same way; 1 of a delta that changes nothing.
    """
    along = length = 0.0
    for name, change in delta.items():
        _, values = aligned([change, composed[name]] if name in composed else [change])
        own = values[0].double()
        length += float(own.square().sum())
        along += float((own * values[1].double()).sum()) if len(values) > 1 else 0.0
    return along / length if length else 1.0
