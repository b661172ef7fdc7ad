"""DARE (Yu et al., 2024, arXiv:2311.03099): most values of each delta dropped, the rest enlarged, then summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.delta.merging.rule import MergeRule

if TYPE_CHECKING:
    from fewshot_cli.engine.delta.change import Change, Delta


class DARE(MergeRule):
    """Each value of a delta is kept with probability `density` (the paper's 1 - p) and divided by it.

    Only values that are not 0 are drawn for. The seed and a delta's name decide its draws, whatever the others are and
    in whatever order.
    """

    rule: Literal["dare"] = "dare"
    density: float = Field(default=0.1, gt=0, le=1)

    @property
    def density_kept(self) -> float:
        return self.density

    def merged(self, deltas: Sequence[Delta], names: Sequence[str], seed: int) -> dict[str, Change]:
        from fewshot_cli.engine.delta.merging.sums import total

        return total([thinned(delta, self.density, seed, name) for delta, name in zip(deltas, names, strict=True)])


def thinned(delta: Delta, density: float, seed: int, name: str) -> dict[str, Change]:
    """The delta with each of its values kept with probability `density` and divided by it, drawn by seed and name."""
    import torch

    from fewshot_cli.engine.delta.change import scaled
    from fewshot_cli.engine.delta.merging.sums import given, only
    from fewshot_cli.engine.rng import Draws

    if density >= 1:
        return dict(delta)

    def drawn(parameter: str, change: Change) -> Change:
        kept = given(change) != 0
        draws = Draws(seed, f"{name} {parameter}", 0).uniform(int(kept.sum()))
        return only(change, kept.masked_scatter(kept, torch.from_numpy(draws < density).to(kept.device)))

    return scaled({parameter: drawn(parameter, change) for parameter, change in delta.items()}, 1 / density)
