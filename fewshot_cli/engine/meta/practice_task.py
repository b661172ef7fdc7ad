"""The loss and other figures of a practice task."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fewshot_cli.engine.params import Params


@dataclass(frozen=True, eq=False)
class MetaLoss:
    """How wrong a bank is on a practice task.

    `parts` add up to `total`. `accuracy` is that on the queries, if there are any. `state` are values
    of the bank that change without a gradient. `seen` are shares for the log, `(n,)` each, in [0, 1].
    """

    total: Tensor
    accuracy: Tensor | None
    parts: Mapping[str, Tensor]
    state: Params = field(default_factory=dict)
    seen: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PractisedTask:
    """A practice task that was done: its number, its domain, and what its loss was."""

    number: int
    domain: str
    loss: MetaLoss
