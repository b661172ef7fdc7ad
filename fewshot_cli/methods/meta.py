"""The protocol of meta-tuning: what learns from many tasks before anybody's folder is seen, and leaves a bank."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fewshot_cli.engine.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.meta.smat.loss import FeaturedTask
    from fewshot_cli.engine.model.flat_params import FlatBackbone
    from fewshot_cli.engine.params import Params
    from fewshot_cli.engine.train.optimiser import Group


@dataclass(frozen=True, eq=False)
class Learned:
    """What a bank's file holds: `delta` `(size,)`; `gates` `(experts, size)` or None; the router, and its settings."""

    delta: Tensor
    gates: Tensor | None = None
    tensors: Params = field(default_factory=dict)
    router: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class MetaLoss:
    """How wrong a bank is on a practice task.

    `parts` add up to `total`. `accuracy` is that on the queries, if there are any. `state` are values
    of the bank that change without a gradient. `seen` are figures for the log, `(n,)` each.
    """

    total: Tensor
    accuracy: Tensor | None
    parts: Mapping[str, Tensor]
    state: Params = field(default_factory=dict)
    seen: Mapping[str, Tensor] = field(default_factory=dict)


class TaskStep(Protocol):
    """Adds the gradient of `share` times the loss of a task to the bank's, and gives that loss, detached."""

    def __call__(self, task: FeaturedTask, tasks: int, rng: torch.Generator, share: float) -> MetaLoss:
        """`tasks` is how many have been practised on; `rng`, on the CPU, is this task's own."""


class MetaMethod(Settings):
    """One way of meta-tuning: its fields are the section `method` of a recipe; what it learns is a bank of tensors."""

    name: str

    @abstractmethod
    def start(self, net: FlatBackbone, seed: int) -> Params:
        """The bank before meta-tuning."""

    @abstractmethod
    def weights(self, bank: Params, net: FlatBackbone, tasks: int) -> Callable[[Tensor], Tensor]:
        """The backbone's weights `(size,)` for a new task, given its prototypes `(way, dim)` of the frozen backbone.

        `tasks` is how many have been practised on. The bank must not change while they are asked for.
        """

    @abstractmethod
    def learned(self, bank: Params, net: FlatBackbone, tasks: int) -> Learned:
        """What to keep of the bank."""


class EpisodicMethod(MetaMethod):
    """Gradient descent on the losses of episodes, each with a support set and queries."""

    @abstractmethod
    def groups(self, bank: Params) -> tuple[Group, ...]:
        """What is trained, and how."""

    def first_lr(self, group: Group) -> float:
        """What the schedule `smat` begins with."""
        return 0.0

    @abstractmethod
    def step(self, bank: Params, net: FlatBackbone) -> TaskStep:
        """What adds the gradients of tasks' losses to those of the bank, whose tensors stay the same ones."""

    def passed(self, bank: Params) -> Params:
        """The state that the loss of a task would leave, where another process computes it."""
        return {}

    def settle_(self, bank: Params) -> None:
        """Puts the bank back into its range, in place: after every step of the optimiser."""

    @abstractmethod
    def compared(self, bank: Params, net: FlatBackbone) -> Tensor:
        """The part of the gradient, flat, by which domains are compared: of the last matrix, as for FLAD."""
