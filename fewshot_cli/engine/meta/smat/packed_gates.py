"""The gates of trained experts in a bit each: what a bank is mixed by, in a small part of its memory and time."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.delta.masks import largest
from fewshot_cli.engine.meta.smat.gates import CPU_CHUNK, chunks, gates

PACKED_CHUNK = 2**16  # weights worked on at once on a CPU; a packed one is a byte


@dataclass(frozen=True)
class PackedGates:
    """The gates of trained experts, a bit each where a weight's gates are all 0 or 1; exact.

    `bits` `(bytes, size)` uint8 hold up to eight experts each, the first in the lowest bit. A weight with any gate in
    between is listed in `positions` `(k,)`, rising, and its gates in `between` `(experts, k)`; its bits are 0.
    """

    bits: Tensor
    positions: Tensor
    between: Tensor

    @classmethod
    def of(cls, logits: Tensor, beta: float) -> "PackedGates":
        """The gates that logits `(experts, size)` give."""
        return cls._of_chunks(logits, lambda chunk: gates(chunk.detach(), beta))

    @classmethod
    def of_gates(cls, known: Tensor) -> "PackedGates":
        """These gates `(experts, size)` in [0, 1], as a bank's file has them."""
        return cls._of_chunks(known, lambda chunk: chunk)

    @classmethod
    def _of_chunks(cls, values: Tensor, gates_of: Callable[[Tensor], Tensor]) -> "PackedGates":
        """The gates that `gates_of` makes of each chunk of the values `(experts, size)`."""
        experts, size = values.shape
        bits = torch.empty(math.ceil(experts / 8), size, dtype=torch.uint8, device=values.device)
        positions, between = [], []
        for i in chunks(values, CPU_CHUNK):
            z = gates_of(values[:, i])
            mixed = ((z > 0) & (z < 1)).any(0)
            here = mixed.nonzero().squeeze(1)
            positions.append(here + i.start)
            between.append(z[:, here])
            bits[:, i] = _packed((z == 1) & ~mixed)
        return cls(bits, torch.cat(positions), torch.cat(between, 1))

    @property
    def size(self) -> int:
        """The number of weights that each expert has a gate for."""
        return self.bits.shape[1]

    @property
    def experts(self) -> int:
        """The number of experts."""
        return len(self.between)

    @property
    def bytes(self) -> int:
        """The memory it takes."""
        return sum(values.numel() * values.element_size() for values in (self.bits, self.positions, self.between))

    def rounded(self) -> "PackedGates":
        """Gates that are all 0 or 1, nothing but bits; those in between go to the nearer one, so it is not exact."""
        bits = self.bits.index_copy(1, self.positions, _packed(self.between >= 0.5))
        return PackedGates(bits, self.positions[:0], self.between[:, :0])

    def mixed(self, weights: Tensor) -> Tensor:
        """Σ_m w_m z_m, `(size,)`, of expert weights `(experts,)`."""
        tables = _tables(weights, len(self.bits))
        mixture = torch.empty(self.size, dtype=weights.dtype, device=weights.device)
        for i in chunks(self.bits, PACKED_CHUNK):
            mixture[i] = _looked_up(tables, self.bits[:, i])
        return mixture.index_copy_(0, self.positions, weights @ self.between)

    def merged(self, base: Tensor, delta: Tensor, weights: Tensor) -> Tensor:
        """base + (Σ_m w_m z_m) ⊙ delta, `(size,)`: what `interpolate` gives, without gradients and much sooner."""
        tables = _tables(weights, len(self.bits))
        merged = torch.empty_like(base)
        for i in chunks(self.bits, PACKED_CHUNK):
            torch.addcmul(base[i], _looked_up(tables, self.bits[:, i]), delta[i], out=merged[i])
        at = self.positions
        return merged.index_copy_(0, at, base[at] + (weights @ self.between) * delta[at])


def pruned(change: Tensor, density: float) -> Tensor:
    """A flat change `(size,)` of which only the `density` x size values that are largest, either sign, are not 0."""
    kept = largest(change.abs(), math.ceil(density * len(change)))
    return torch.zeros_like(change).index_copy_(0, kept, change[kept])


def _packed(on: Tensor) -> Tensor:
    """Bytes `(ceil(experts / 8), n)` uint8 of flags `(experts, n)`."""
    return torch.stack([_byte(eight) for eight in torch.split(on.to(torch.uint8), 8)])


def _byte(flags: Tensor) -> Tensor:
    byte = torch.zeros_like(flags[0])
    for m, flag in enumerate(flags):
        byte |= flag << m
    return byte


def _tables(weights: Tensor, groups: int) -> list[Tensor]:
    """For each byte the 256 sums of expert weights that it may stand for."""
    values = torch.arange(256, device=weights.device)
    bits = (values.unsqueeze(1) >> torch.arange(8, device=weights.device)) & 1
    eights = torch.nn.functional.pad(weights, (0, 8 * groups - len(weights))).view(groups, 8)
    return [bits.to(weights.dtype) @ eight for eight in eights]


def _looked_up(tables: list[Tensor], bits: Tensor) -> Tensor:
    mixture = tables[0].index_select(0, bits[0].int())
    for table, more in zip(tables[1:], bits[1:], strict=True):
        mixture += table.index_select(0, more.int())
    return mixture
