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
