"""The one training loop."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import unwatched
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.optimiser import Descent, Group
from fewshot_cli.engine.train.settings import Optim
from fewshot_cli.errors import FewshotError

READ_EVERY = 10  # steps after which losses leave a GPU: to wait for them in each step would stop it


def fit(
    loss: Callable[[Params, int], Iterable[Tensor]],
    start: Params,
    optim: Optim,
    watch: Callable[[int, int, float], None] = unwatched,
    lr_scale: Mapping[str, float] = MappingProxyType({}),
    smaller: Callable[[], None] | None = None,
    read_every: int | None = None,
) -> Params:
    """The parameters that `optim.steps` steps down `loss(params, step)` lead to from `start`, which stays as it is.

    The loss comes in parts that add up, each differentiated and forgotten before the next is made, so that a batch need
    not fit into memory, or the cache, at once. Where it does not, `smaller` is called, and then the loss once more for
    the same step. The learning rate of a parameter is multiplied by `lr_scale` of the first pattern that is found in
    its name. Losses are read, and `watch` hears of them, every `read_every` steps: on a CPU after each.

    Raises FewshotError when the loss or a parameter is no longer a finite number.
    """
    descent = Descent(start, _groups(start, optim, lr_scale))
    if read_every is None:
        read_every = 1 if all(values.device.type == "cpu" for values in start.values()) else READ_EVERY
    unread: list[tuple[int, list[Tensor]]] = []
    for step in range(optim.steps):
        unread.append((step, _differentiated(loss, descent, step, smaller)))
        read: list[tuple[int, float]] = []
        if (step + 1) % read_every == 0 or step + 1 == optim.steps:
            read, unread = [(at, _value(parts, at, optim)) for at, parts in unread], []
        descent.step([group.lr * _share_of_lr(step, optim) for group in descent.groups])
        for at, value in read:
            watch(at + 1, optim.steps, value)
    params = {name: values.detach() for name, values in descent.params.items()}
    if not all(values.isfinite().all() for values in params.values()):  # what the last step did shows in no loss
        raise _broken_off(optim.steps - 1, optim, "a weight is no longer a finite number")
    return params


def _differentiated(
    loss: Callable[[Params, int], Iterable[Tensor]],
    descent: Descent,
    step: int,
    smaller: Callable[[], None] | None,
) -> list[Tensor]:
    """The parts of the loss, whose gradients have come together."""
    while True:
        try:
            parts = []
            for part in loss(descent.params, step):
                part.backward()  # type: ignore[no-untyped-call]
                parts.append(part.detach())
            return parts
        except torch.OutOfMemoryError:
            if smaller is None:
                raise
        descent.forget()
        smaller()


def _value(parts: list[Tensor], step: int, optim: Optim) -> float:
    """The loss of a step; here Python waits for a GPU."""
    value = 0.0
    for part in parts:
        value += part.item()
    if not math.isfinite(value):
        raise _broken_off(step, optim, f"the loss is {value}")
    return value


def _groups(start: Params, optim: Optim, lr_scale: Mapping[str, float]) -> list[Group]:
    """A group for each learning rate."""
    by_scale: dict[float, list[str]] = {}
    for name in start:
        scale = next((scale for pattern, scale in lr_scale.items() if re.search(pattern, name)), 1.0)
        by_scale.setdefault(scale, []).append(name)
    return [
        Group(tuple(names), optim.name, optim.lr * scale, optim.momentum, optim.weight_decay)
        for scale, names in by_scale.items()
    ]


def _broken_off(step: int, optim: Optim, reason: str) -> FewshotError:
    return FewshotError(
        f"Training broke off at step {step + 1} of {optim.steps}: {reason}.",
        f"Use a smaller learning rate: --set method.tuning.optim.lr={optim.lr / 10:g}",
    )


def _share_of_lr(step: int, optim: Optim) -> float:
    return 1.0 if optim.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / optim.steps))
