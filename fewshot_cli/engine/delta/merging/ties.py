"""TIES-merging (Yadav et al., 2023, arXiv:2306.01708): trimmed, signs elected, the agreeing averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.delta.merging.rule import MergeRule

if TYPE_CHECKING:
    from fewshot_cli.engine.delta.change import Change, Delta


class TIES(MergeRule):
    """Of each delta the share `density` of its values that are largest is kept.

    Of every weight the sign with the larger sum of magnitudes is elected; the result is the mean of the values of that
    sign. The paper trims to a share of all weights, which is the same for a dense delta; here it is a share of those
    that the delta changes, as a sparse one would else never be trimmed. Where magnitudes cancel exactly the weight
    stays as it is; the released code takes the sign that most weights have.
    """

    rule: Literal["ties"] = "ties"
    density: float = Field(default=0.2, gt=0, le=1)

    @property
    def density_kept(self) -> float:
        return self.density

    def merged(self, deltas: Sequence[Delta], names: Sequence[str], seed: int) -> dict[str, Change]:
        from fewshot_cli.engine.delta.merging.sums import by_parameter

        return by_parameter([trimmed(delta, self.density) for delta in deltas], elected)


def trimmed(delta: Delta, density: float) -> dict[str, Change]:
    """The delta with the share `density` of its values, the largest over all parameters; of equals at the edge all."""
    import torch

    from fewshot_cli.engine.delta.merging.sums import given, only

    magnitudes = torch.cat([torch.empty(0), *(given(change).abs().cpu() for change in delta.values())])
    magnitudes = magnitudes[magnitudes > 0]
    if density >= 1 or len(magnitudes) == 0:
        return dict(delta)
    kept = max(1, round(density * len(magnitudes)))
    least = float(magnitudes.kthvalue(len(magnitudes) - kept + 1).values)
    return {name: only(change, given(change).abs() >= least) for name, change in delta.items()}


def elected(changes: Sequence[Change]) -> Change:
    """The mean of the values of each weight that have the sign with the larger sum of magnitudes."""
    from fewshot_cli.engine.delta.merging.sums import aligned, change_of

    positions, values = aligned(changes)
    signs = values.double().sum(0).sign()
    agreeing = (values.sign() == signs) & (values != 0)
    sums = values.double().where(agreeing, 0.0).sum(0)
    return change_of(changes[0].shape, positions, (sums / agreeing.sum(0).clamp(min=1)).float())
