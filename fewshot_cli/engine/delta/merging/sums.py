"""Sums of deltas, and what every rule needs: the values that several changes give to the same weights."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Change, Delta, LowRank, Sparse, all_values, smaller


def total(deltas: Sequence[Delta]) -> dict[str, Change]:
    """The sum of the deltas, every value rounded once.

    What one of them alone changes stays as it is, to the bit; so deltas that change different weights add up exactly
    and in any order. Changes of low rank stay so where that takes fewer numbers.
    """
    return by_parameter(deltas, _sum_of)


def _sum_of(changes: Sequence[Change]) -> Change:
    low = [change for change in changes if isinstance(change, LowRank)]
    if len(low) == len(changes):
        left, right = torch.cat([change.left for change in low], 1), torch.cat([change.right for change in low])
        if left.numel() + right.numel() < math.prod(low[0].shape):
            return LowRank(low[0].shape, left, right)
    positions, values = aligned(changes)
    return change_of(changes[0].shape, positions, values.double().sum(0).float())


def by_parameter(deltas: Sequence[Delta], rule: Callable[[Sequence[Change]], Change]) -> dict[str, Change]:
    """The changes by the rule where there are several, as they are where there is one; without those of nothing."""
    found: dict[str, Change] = {}
    for name in parameters(deltas):
        changes = [delta[name] for delta in deltas if name in delta]
        change = rule(changes) if len(changes) > 1 else changes[0]
        if not isinstance(change, Sparse) or len(change.positions):
            found[name] = change
    return found


def parameters(deltas: Sequence[Delta]) -> list[str]:
    """The parameters that any of the deltas changes, in the order in which they first come."""
    return list(dict.fromkeys(name for delta in deltas for name in delta))


def aligned(changes: Sequence[Change]) -> tuple[Tensor | None, Tensor]:
    """The values `(changes, k)` of changes of one parameter at the flat, rising positions `(k,)` that any of them has.

    The positions are None where all of the parameter's values are given.
    """
    if not all(isinstance(change, Sparse) for change in changes):
        return None, torch.stack([all_values(change).reshape(-1) for change in changes])
    few = [change for change in changes if isinstance(change, Sparse)]
    positions = torch.unique_consecutive(torch.cat([change.positions for change in few]).sort().values)
    values = few[0].values.new_zeros(len(few), len(positions))
    for row, change in zip(values, few, strict=True):
        row[torch.searchsorted(positions, change.positions)] = change.values
    return positions, values


def change_of(shape: tuple[int, ...], positions: Tensor | None, values: Tensor) -> Change:
    """The change by flat values, all of them or those at the positions, without the zeros."""
    if positions is None:
        return smaller(values.reshape(shape))
    left = values != 0
    return Sparse(shape, positions[left], values[left])


def given(change: Change) -> Tensor:
    """The values that the change names, flat: of a sparse one those at its positions, of another all."""
    return change.values if isinstance(change, Sparse) else all_values(change).reshape(-1)


def only(change: Change, kept: Tensor) -> Change:
    """The change with those of its values, as `given` gives them, for which `kept` is true."""
    if isinstance(change, Sparse):
        return Sparse(change.shape, change.positions[kept], change.values[kept])
    return smaller(given(change).where(kept, 0.0).reshape(change.shape))
