"""Numbers of a delta file that are taken only where every one of them is finite."""

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import LowRank
from fewshot_cli.formats.container import Malformed

MOST_IN_A_PRODUCT = 1e38
"""Of factors: a third of what float32 holds."""


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


def _largest(numbers: Tensor) -> float:
    return float(numbers.abs().max()) if numbers.numel() else 0.0
