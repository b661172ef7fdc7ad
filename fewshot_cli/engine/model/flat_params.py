"""All parameters of a backbone as one flat vector, and back: what works on every weight alike works on one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Sparse
from fewshot_cli.engine.params import Params


@dataclass(frozen=True)
class Layout:
    """Where each parameter lies in the flat vector: one after the other, row by row, in the order of `names`."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, params: Mapping[str, Tensor]) -> "Layout":
        """The layout of these parameters, in their order."""
        return cls(tuple(params), tuple(tuple(values.shape) for values in params.values()))

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each parameter."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """The number of values of all parameters."""
        return sum(self.sizes)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The place of each parameter in the flat vector."""
        ends = tuple(accumulate(self.sizes))
        return {name: slice(end - size, end) for name, size, end in zip(self.names, self.sizes, ends, strict=True)}

    def flatten(self, params: Mapping[str, Tensor]) -> Tensor:
        """The values `(size,)` of `params`, row by row whatever their memory format; other names are left out."""
        return torch.cat([params[name].reshape(-1) for name in self.names])

    def views(self, flat: Tensor) -> Params:
        """The parameters in `flat` `(..., size)`, each `(..., *shape)`: views of it, differentiable.

        The flat tensor is split and not sliced, since the gradient of many slices is a sum of as many full vectors.
        """
        parts = torch.split(flat, list(self.sizes), dim=-1)
        return {
            name: part.view((*flat.shape[:-1], *shape))
            for name, part, shape in zip(self.names, parts, self.shapes, strict=True)
        }

    def delta(self, change: Tensor) -> dict[str, Sparse]:
        """The delta of a flat change `(size,)`: its non-zero values by parameter; one without any is left out."""
        changes = {}
        for name, part, shape in zip(
            self.names, torch.split(change.detach(), list(self.sizes)), self.shapes, strict=True
        ):
            positions = part.nonzero().squeeze(1)
            if len(positions):
                changes[name] = Sparse(shape, positions, part[positions])
        return changes
