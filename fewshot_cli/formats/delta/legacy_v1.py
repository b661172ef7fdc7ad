"""Version 1 of the delta file, which is still read: a tensor or two for each parameter, numbers as they are."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Change, Dense, LowRank, Sparse
from fewshot_cli.formats.container import Malformed
from fewshot_cli.formats.delta.finite import low_rank, taken_floats

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


def _width(matrix: Tensor) -> int:
    return matrix.shape[-1] if matrix.ndim else 0
