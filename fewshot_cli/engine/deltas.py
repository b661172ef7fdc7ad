"""Deltas: what to add to a frozen backbone, by parameter name. They merge the same way whatever method made them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """A change of every value of a parameter."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def nonzeros(self) -> int:
        return int(torch.count_nonzero(self.values))

    def added_to(self, base: Tensor) -> Tensor:
        return base + self.values


@dataclass(frozen=True)
class Sparse:
    """A change of a few values of a parameter: `values` `(k,)` at the flat, rising `positions` `(k,)` int64."""

    shape: tuple[int, ...]
    positions: Tensor
    values: Tensor

    def nonzeros(self) -> int:
        return len(self.positions)

    def added_to(self, base: Tensor) -> Tensor:
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
        return int(torch.count_nonzero(self.left @ self.right))

    def added_to(self, base: Tensor) -> Tensor:
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
    found = {name: _smaller(of_parameter) for name, of_parameter in values.items()}
    return {name: change for name, change in found.items() if isinstance(change, Dense) or len(change.positions)}


def _sum(first: Change, second: Change) -> Change:
    values = second.added_to(_values(first))
    if not isinstance(first, Sparse) or not isinstance(second, Sparse):
        return _smaller(values)
    named = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    named[first.positions] = named[second.positions] = True
    positions = named.nonzero().squeeze(1)
    return Sparse(first.shape, positions, values.flatten()[positions])


def _values(change: Change) -> Tensor:
    """The change of every value of the parameter."""
    given = change.left if isinstance(change, LowRank) else change.values
    return change.added_to(given.new_zeros(change.shape))


def _smaller(values: Tensor) -> Dense | Sparse:
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
