"""Gradient descent that can stop after any step and go on later: parameters, their optimisers, all of it as tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.settings import OptimiserName


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike; `clip` is the largest norm of their gradients together."""

    names: tuple[str, ...]
    optimiser: OptimiserName
    lr: float
    momentum: float = 0.0
    """Of sgd only; adam and adamw use 0.9 and 0.999, adadelta 0.9."""
    weight_decay: float = 0.0
    clip: float | None = None
    first_lr: float = 0.0
    """What the schedule `smat` begins with."""


class Descent:
    """Parameters on their way down a loss: differentiate what follows from `params`, then `step`.

    `params` are copies of what they start from; those that belong to no group need no gradient.
    """

    def __init__(self, start: Params, groups: Sequence[Group]) -> None:
        self.groups = tuple(groups)
        trained = {name for group in groups for name in group.names}
        self.params = {name: values.detach().clone().requires_grad_(name in trained) for name, values in start.items()}
        self._optimisers = [_optimiser(self._members(group), group) for group in self.groups]

    def step(self, lrs: Sequence[float]) -> None:
        """One step with the gradients that have come together, and a learning rate for each group; forgets them."""
        for group, optimiser, lr in zip(self.groups, self._optimisers, lrs, strict=True):
            if group.clip is not None:
                torch.nn.utils.clip_grad_norm_(self._members(group), group.clip)
            optimiser.param_groups[0]["lr"] = lr
            optimiser.step()
        self.forget()

    def forget(self) -> None:
        """Forgets the gradients that have come together."""
        for values in self.params.values():
            values.grad = None

    @torch.no_grad()
    def write_(self, values: Params) -> None:
        """Puts values in the place of parameters, in place."""
        for name, new in values.items():
            self.params[name].copy_(new)

    def state(self) -> Params:
        """The memory of the optimisers, as "WHAT/PARAMETER"; with `params` it is all there is to know."""
        return {
            f"{key}/{name}": values
            for name, memory in self._memories()
            for key, values in memory.items()
            if isinstance(values, Tensor)
        }

    def restore(self, state: Params) -> None:
        """Goes back to what `state` gave; the parameters are written apart."""
        for optimiser in self._optimisers:
            optimiser.state.clear()
        for name, memory in self._memories():
            for key, values in state.items():
                what, _, of = key.partition("/")
                if of == name:
                    # Adam counts its steps on the CPU
                    device = values.device if values.ndim == 0 else self.params[name].device
                    memory[what] = values.clone().to(device)

    def _memories(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for group, optimiser in zip(self.groups, self._optimisers, strict=True):
            for name in group.names:
                yield name, optimiser.state[self.params[name]]

    def _members(self, group: Group) -> list[Tensor]:
        return [self.params[name] for name in group.names]


def add_gradients(loss: Tensor, params: Params) -> None:
    """Adds the gradient of a loss to those of the parameters that require one, all of it or, where it fails, nothing.

    `loss.backward()` would leave the gradients of some of them where memory runs out half-way.
    """
    leaves = [values for values in params.values() if values.requires_grad]
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    seen: set[int] = set()
    for values, gradient in zip(leaves, found, strict=True):
        if gradient is None:
            continue
        if values.grad is not None:
            values.grad.add_(gradient)
        elif gradient.stride() == values.stride() and gradient.untyped_storage().data_ptr() not in seen:
            values.grad = gradient
        else:  # it lies otherwise in memory, or another parameter has it already
            values.grad = torch.empty_like(values).copy_(gradient)
        seen.add(gradient.untyped_storage().data_ptr())


def _optimiser(params: list[Tensor], group: Group) -> torch.optim.Optimizer:
    match group.optimiser:
        case "adam":
            return torch.optim.Adam(params, lr=group.lr, weight_decay=group.weight_decay)
        case "adamw":
            return torch.optim.AdamW(params, lr=group.lr, weight_decay=group.weight_decay)
        case "adadelta":
            return torch.optim.Adadelta(params, lr=group.lr, weight_decay=group.weight_decay)
        case "sgd":
            return torch.optim.SGD(params, lr=group.lr, momentum=group.momentum, weight_decay=group.weight_decay)
