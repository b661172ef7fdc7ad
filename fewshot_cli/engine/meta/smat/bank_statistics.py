"""Where a bank changes weights: how dense each layer is, and how far the experts open the same gates."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 2**18
"""Weights looked at together, so that nothing of the gates' size is copied; as many ones add up exactly in float32."""


@dataclass(frozen=True)
class Layer:
    """Some parameters of a backbone: their values, how many of them each expert changes, the length of the delta."""

    name: str
    size: int
    opened: tuple[int, ...]
    norm: float

    @property
    def density(self) -> list[float]:
        """The share of the values that each expert changes."""
        return [count / self.size for count in self.opened]


@dataclass(frozen=True)
class BankStatistics:
    """What is open where. Of a dense bank, where the delta isn't 0, as if it had one expert.

    `both` `(experts, experts)` counts the weights that two experts change, on its diagonal those of one; `union` those
    of any. `between` `(experts,)` are the gates below 1 among the open ones.
    """

    layers: tuple[Layer, ...]
    size: int
    both: Tensor
    between: Tensor
    union: int

    @property
    def density(self) -> list[float]:
        """The share of all weights that each expert changes."""
        return [count / self.size for count in self.both.diagonal().tolist()]


def survey(shapes: Mapping[str, Sequence[int]], delta: Tensor, gates: Tensor | None) -> BankStatistics:
    """The survey of a bank: the shapes of its parameters, its delta `(size,)` and gates `(experts, size)`."""
    experts = 1 if gates is None else len(gates)
    both, between = torch.zeros(experts, experts, dtype=torch.int64), torch.zeros(experts, dtype=torch.int64)
    union, start = 0, 0
    layers: dict[str, Layer] = {}
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        opened, square = torch.zeros(experts, dtype=torch.int64), 0.0
        for i in _chunks(start, end):
            is_open = (delta[i] != 0).unsqueeze(0) if gates is None else gates[:, i] > 0
            ones = is_open.float()
            together = (ones @ ones.T).long()
            both += together
            opened += together.diagonal()
            union += int(is_open.any(0).count_nonzero())
            square += float(delta[i].double().square().sum())
            if gates is not None:
                between += (is_open & (gates[:, i] < 1)).sum(1)
        layer = Layer(layer_of(name), end - start, tuple(opened.tolist()), math.sqrt(square))
        layers[layer.name] = _together(layers[layer.name], layer) if layer.name in layers else layer
        start = end
    return BankStatistics(tuple(layers.values()), start, both, between, union)


def layer_of(parameter: str) -> str:
    """The part of a timm model that a parameter is of: its name up to the first number, or the first word of it."""
    words = parameter.split(".")
    number = next((place for place, word in enumerate(words) if word.isdecimal()), 0)
    return ".".join(words[: number + 1])


def overlap(both: Tensor) -> Tensor:
    """Intersection over union of every two sets, from the sizes of their intersections; 0 where both are empty."""
    sizes = both.diagonal()
    return both / (sizes.unsqueeze(0) + sizes.unsqueeze(1) - both).clamp(min=1)


def overlap_by_chance(density: Sequence[float]) -> Tensor:
    """What `overlap` is to be expected of large random sets that know nothing of each other."""
    p = torch.tensor(density, dtype=torch.float64)
    intersection = p.unsqueeze(0) * p.unsqueeze(1)
    union = p.unsqueeze(0) + p.unsqueeze(1) - intersection
    expected = torch.where(union > 0, intersection / union, 0)
    return torch.where(torch.eye(len(p), dtype=torch.bool), (p > 0).double(), expected)  # each is like itself


def _together(first: Layer, second: Layer) -> Layer:
    opened = tuple(a + b for a, b in zip(first.opened, second.opened, strict=True))
    return Layer(first.name, first.size + second.size, opened, math.hypot(first.norm, second.norm))


def _chunks(start: int, end: int) -> Iterator[slice]:
    for here in range(start, end, CHUNK):
        yield slice(here, min(here + CHUNK, end))
