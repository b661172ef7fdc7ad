"""Parameters by name: the type of weights throughout the engine."""

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

Params: TypeAlias = dict[str, Tensor]


def total_size(params: Mapping[str, Tensor]) -> int:
    """The number of values in `params`."""
    return sum(values.numel() for values in params.values())


def gradient_of(values: Tensor) -> Tensor:
    """The gradient that has come together; there must be one."""
    assert values.grad is not None
    return values.grad
