"""Deltas: what to add to a frozen backbone, by parameter name. They merge the same way whatever method made them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

MOST_AT_ONCE = 2**24
"""Values of a product of factors that are held only to be counted: a file of few factors may speak of any number."""


@dataclass(frozen=True)
class Dense:
    """A change of every value of a parameter."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter that changes."""
        return tuple(self.values.shape)

    def nonzeros(self) -> int:
        """How many values of the parameter change."""
        return int(torch.count_nonzero(self.values))

    def added_to(self, base: Tensor) -> Tensor:
        """The parameter with the change added, of the base's shape."""
        return base + self.values


@dataclass(frozen=True)
class Sparse:
    """A change of a few values of a parameter: `values` `(k,)` at the flat, rising `positions` `(k,)` int64."""

    shape: tuple[int, ...]
    positions: Tensor
    values: Tensor

    def nonzeros(self) -> int:
        """How many values of the parameter change."""
        return len(self.positions)

    def added_to(self, base: Tensor) -> Tensor:
        """The parameter with the change added, of the base's shape."""
        # contiguous, because positions count row by row whatever the memory format of the base
        return base.contiguous().flatten().index_add(0, self.positions, self.values).reshape(self.shape)


@dataclass(frozen=True)
class LowRank:
    """A change of low rank: `left` `(rows, rank)` times `right` `(rank, columns)`, in the parameter's shape.

    A convolution's kernel `(out, in, height, width)` counts as the matrix `(out, in * height * width)`.
    """

    shape: tuple[int, ...]
    left: Tensor
    right: Tensor

    def nonzeros(self) -> int:
        """How many values of the parameter change, counted a few rows at a time."""
        rows = torch.split(self.left, max(1, MOST_AT_ONCE // max(1, self.right.shape[1])))
        return sum(int(torch.count_nonzero(part @ self.right)) for part in rows)

    def added_to(self, base: Tensor) -> Tensor:
        """The parameter with the change added, of the base's shape."""
        return base + (self.left @ self.right).reshape(self.shape)


Change: TypeAlias = Dense | Sparse | LowRank
Delta: TypeAlias = Mapping[str, Change]


def merge(base: Mapping[str, Tensor], delta: Delta) -> dict[str, Tensor]:
    """The weights of `base` moved by `delta`, differentiably; parameters it does not name stay as they are."""
    return dict(base) | {name: change.added_to(base[name]) for name, change in delta.items()}


def plus(first: Delta, second: Delta) -> dict[str, Change]:
    """The delta that moves weights as `first` and then `second` do.

    What only one of them changes stays as it is; two sparse changes give one, and else it is in the smaller form.
    """
    sums = {name: _sum(first[name], change) if name in first else change for name, change in second.items()}
    return dict(first) | sums


def delta_of(values: Mapping[str, Tensor]) -> dict[str, Change]:
    """The delta that adds these values, each in the smaller form; a parameter whose values are all 0 is left out."""
    found = {name: smaller(of_parameter) for name, of_parameter in values.items()}
    return {name: change for name, change in found.items() if isinstance(change, Dense) or len(change.positions)}


def _sum(first: Change, second: Change) -> Change:
    values = second.added_to(all_values(first))
    if not isinstance(first, Sparse) or not isinstance(second, Sparse):
        return smaller(values)
    named = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    named[first.positions] = named[second.positions] = True
    positions = named.nonzero().squeeze(1)
    return Sparse(first.shape, positions, values.flatten()[positions])


def scaled(delta: Delta, factor: float) -> dict[str, Change]:
    """The delta that moves weights `factor` times as far, each change in the form it has."""

    def times(change: Change) -> Change:
        if isinstance(change, LowRank):
            return replace(change, left=change.left * factor)
        return replace(change, values=change.values * factor)

    return {name: times(change) for name, change in delta.items()}


def negated(delta: Delta) -> dict[str, Change]:
    """The delta that moves weights the other way, each change in the form it has."""
    return scaled(delta, -1.0)


def interpolated(first: Delta, second: Delta, share: float) -> dict[str, Change]:
    """The delta on the way from `first`, where `share` is 0, to `second`, where it is 1."""
    return plus(scaled(first, 1 - share), scaled(second, share))


def masked(delta: Delta, where: Mapping[str, Tensor]) -> dict[str, Change]:
    """The delta with only those of its values for which `where`, a boolean tensor of the parameter's shape, is true.

    What is left of a sparse change is sparse, of another in the smaller form. A parameter that `where` does not name,
    or of which nothing is left, is left out.
    """
    found = {name: _masked(change, where[name]) for name, change in delta.items() if name in where}
    return {name: change for name, change in found.items() if isinstance(change, Dense) or len(change.positions)}


def _masked(change: Change, where: Tensor) -> Dense | Sparse:
    if not isinstance(change, Sparse):
        return smaller(all_values(change).where(where, 0.0))
    left = where.reshape(-1)[change.positions]
    return Sparse(change.shape, change.positions[left], change.values[left])


def all_values(change: Change) -> Tensor:
    """The change of every value of the parameter, in its shape."""
    match change:
        case Dense():
            return change.values
        case Sparse():
            return change.added_to(change.values.new_zeros(change.shape))
        case LowRank():
            return (change.left @ change.right).reshape(change.shape)


def is_same(one: Delta, other: Delta) -> bool:
    """Whether both change the same parameters, and every value of them alike, in whatever forms."""
    same = one.keys() == other.keys()
    return same and all(torch.equal(all_values(one[name]), all_values(other[name])) for name in one)


def smaller(values: Tensor) -> Dense | Sparse:
    """The change by these values: sparse, where a file so takes fewer numbers."""
    if 2 * int(torch.count_nonzero(values)) >= values.numel():
        return Dense(values)
    flat = values.reshape(-1)
    positions = flat.nonzero().squeeze(1)
    return Sparse(tuple(values.shape), positions, flat[positions])


def on_device(delta: Delta, device: torch.device) -> dict[str, Change]:
    """The same delta with its tensors on the device."""

    def moved(change: Change) -> Change:
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(change).items() if isinstance(value, Tensor)
        }
        return replace(change, **tensors)

    return {name: moved(change) for name, change in delta.items()}


def density(delta: Delta, size: int) -> float:
    """The share in [0, 1] of a backbone's `size` values that the delta changes."""
    return sum(change.nonzeros() for change in delta.values()) / size
