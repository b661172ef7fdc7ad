"""Version 1 of the delta file, which is still read: a tensor or two for each parameter, numbers as they are."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Change, Dense, LowRank, Sparse
from fewshot_cli.formats.container import Malformed

MOST_IN_A_PRODUCT = 1e38
"""Of factors: a third of what float32 holds."""

_FORMS = {Dense: "dense", Sparse: "sparse", LowRank: "low rank"}


def changes_in(
    shapes: Mapping[str, tuple[int, ...]], tensors: dict[str, Tensor]
) -> tuple[dict[str, Change], dict[str, str]]:
    """Takes the changes of parameters of these shapes out of `tensors`, and the forms they had.

    Raises Malformed unless they are all there.
    """
    delta = {name: _change(name, shape, tensors) for name, shape in shapes.items()}
    return delta, {name: _FORMS[type(change)] for name, change in delta.items()}


def _change(name: str, shape: tuple[int, ...], tensors: dict[str, Tensor]) -> Change:
    """Takes the tensors of one parameter out of `tensors`; raises Malformed unless they are a change of that shape."""
    size = math.prod(shape)
    if f"dense/{name}" in tensors:
        return Dense(taken_floats(tensors, f"dense/{name}", shape))
    if f"left/{name}" in tensors:
        rows, rank = shape[0] if shape else 1, _width(tensors[f"left/{name}"])
        left = taken_floats(tensors, f"left/{name}", (rows, rank))
        return low_rank(name, shape, left, taken_floats(tensors, f"right/{name}", (rank, size // rows)))
    positions = tensors.pop(f"positions/{name}", None)
    if positions is None or positions.dtype != torch.int32 or positions.ndim != 1:
        raise Malformed(f"the change of {name} is missing")
    positions = positions.long()
    outside = len(positions) and (int(positions[0]) < 0 or int(positions[-1]) >= size)
    if outside or bool((positions.diff() <= 0).any()):
        raise Malformed(f"the positions in {name} are not rising within its {size} values")
    return Sparse(shape, positions, taken_floats(tensors, f"values/{name}", (len(positions),)))


def low_rank(name: str, shape: tuple[int, ...], left: Tensor, right: Tensor) -> LowRank:
    """The change of these factors; raises Malformed where their product may be more than float32 holds."""
    if left.shape[1] * _largest(left) * _largest(right) > MOST_IN_A_PRODUCT:
        raise Malformed(f"the product of the factors of {name} is not finite")
    return LowRank(shape, left, right)


def taken_floats(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """Takes float32 values of that shape out of `tensors`; raises Malformed for others, and for what isn't finite."""
    values = tensors.pop(name, None)
    if values is None or values.dtype != torch.float32 or tuple(values.shape) != shape:
        raise Malformed(f"{name} is not float32 of shape {shape}")
    if not bool(torch.isfinite(values).all()):
        raise Malformed(f"{name} holds a value that is not a number")
    return values


def _width(matrix: Tensor) -> int:
    return matrix.shape[-1] if matrix.ndim else 0


def _largest(numbers: Tensor) -> float:
    return float(numbers.abs().max()) if numbers.numel() else 0.0
