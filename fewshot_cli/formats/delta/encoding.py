"""The form a change takes in a delta file: dense, sparse, drawn or low rank, whichever takes the fewest bytes.

A drawn change is a sparse one whose positions follow from a seed.
"""

import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Change, Delta, Dense, LowRank, Sparse, all_values
from fewshot_cli.engine.rng import Draws
from fewshot_cli.formats.delta.header import IsDrawn, IsLowRank
from fewshot_cli.formats.delta.rounding import BITS, DTYPES, Values, has_scale, rounded

BITS_OF_A_DRAW = 8 * 16
"""What the header takes to name a seed and a count."""

Choice: TypeAlias = tuple[Literal["dense", "sparse"] | IsDrawn | IsLowRank, Change]
"""A form, and the change as it is read back."""


def as_stored(delta: Delta, values: Values, seed: int) -> dict[str, Change]:
    """The delta as it is read back from a file that keeps its numbers as `values`, and whose provenance has `seed`."""
    return {name: smallest_form(name, change, values, seed)[1] for name, change in delta.items()}


def delta_bytes(delta: Delta, values: Values = "float16") -> int:
    """About how many bytes the file takes for the delta, its positions by the bound that codes come near to."""
    return sum(-(-_fewest_bits(change, values) // 8) for change in delta.values())


def smallest_form(name: str, change: Change, values: Values, seed: int) -> Choice:
    """The change in the form that takes the fewest bits."""
    return min(_choices(name, change, values, seed), key=lambda choice: _bits(choice, values))


def _choices(name: str, change: Change, values: Values, seed: int) -> Iterator[Choice]:
    size = math.prod(change.shape)
    if isinstance(change, LowRank):
        kind = kind_of_factors(values)
        change = LowRank(change.shape, rounded(change.left, kind), rounded(change.right, kind))
        yield ("low rank", change.left.shape[1]), change
    if isinstance(change, Sparse):
        positions, numbers = change.positions, change.values
        whole = values != "1bit" or bool(numbers.all())  # a bit can't say that nothing is added
        if whole and _follow_from(seed, name, size, positions):
            yield ("drawn", seed, len(positions)), Sparse(change.shape, positions, rounded(numbers, values))
    else:
        flat = all_values(change).reshape(-1)
        positions = flat.nonzero().squeeze(1)
        numbers = flat[positions]
    if isinstance(change, LowRank) and not _can_hold(numbers, values):
        return  # the factors are smaller than their product
    numbers = rounded(numbers[(is_some := numbers != 0)], values)
    positions, numbers = positions[is_some][numbers != 0], numbers[numbers != 0]
    if values != "1bit" or len(positions) == size:
        yield "dense", Dense(numbers.new_zeros(size).index_copy(0, positions, numbers).reshape(change.shape))
    yield "sparse", Sparse(change.shape, positions, numbers)


def _follow_from(seed: int, name: str, size: int, positions: Tensor) -> bool:
    """Whether the seed gives the parameter these very positions."""
    return 0 <= seed < 2**64 and torch.equal(positions.cpu(), drawn_positions(seed, name, size, len(positions)))


def _can_hold(numbers: Tensor, values: Values) -> bool:
    return bool(torch.isfinite(numbers.to(DTYPES[values]) if not has_scale(values) else numbers).all())


def _bits(choice: Choice, values: Values) -> float:
    """What the numbers and the positions take."""
    form, change = choice
    match change:
        case LowRank():
            return BITS[kind_of_factors(values)] * (change.left.numel() + change.right.numel())
        case Dense():
            return BITS[values] * change.values.numel()
        case Sparse():
            count = len(change.positions)
            where = _bits_of_set(change.shape, count) if form == "sparse" else BITS_OF_A_DRAW
            return BITS[values] * count + where


def _fewest_bits(change: Change, values: Values) -> int:
    """Bits of the change in its smallest form, which is not made."""
    not_zero = change.nonzeros()
    size = math.prod(change.shape)
    forms = [BITS[values] * not_zero + _bits_of_set(change.shape, not_zero)]
    if values != "1bit" or not_zero == size:
        forms.append(BITS[values] * size)
    if isinstance(change, LowRank):
        forms.append(BITS[kind_of_factors(values)] * (change.left.numel() + change.right.numel()))
    return math.ceil(min(forms))


def _bits_of_set(shape: tuple[int, ...], count: int) -> float:
    """log2 C(size, count): what a code of so many positions comes near to."""
    size = math.prod(shape)
    return max(0.0, math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


def kind_of_factors(values: Values) -> Values:
    """How factors are kept: with one bit each, their product would have nothing to do with the change."""
    return "int8" if values == "1bit" else values


def drawn_positions(seed: int, name: str, size: int, count: int) -> Tensor:
    """The positions `(count,)`, rising, that the seed gives a parameter of so many values."""
    return torch.from_numpy(Draws(seed, name, 0).subset(size, count))
