"""Gradient descent on the losses of episodes: how SMAT, P>M>F and FOMAML are meta-tuned.

A step draws `training.batch` episodes, each from the domain that the sampler chooses, and descends on their mean loss.
All random numbers of an episode follow from its own number, so that a run can stop after any step and go on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from fewshot_cli.engine.data.domain_sampling import AnyState
from fewshot_cli.engine.data.rewards import alignment
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.drawn_task import DrawnTask, Prefetched
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.practice_task import MetaLoss, PractisedTask
from fewshot_cli.engine.meta.settings import Training
from fewshot_cli.engine.meta.task_source import TaskSource
from fewshot_cli.engine.meta.validation import VALIDATION_SEED
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.rng import Draws
from fewshot_cli.engine.train.optimiser import Descent, Group
from fewshot_cli.errors import FewshotError


class TaskStep(Protocol):
    """Adds the gradient of `share` times the loss of a task to the bank's, and gives that loss, detached."""

    def __call__(self, task: FeaturedTask, tasks: int, rng: torch.Generator, share: float) -> MetaLoss:
        """`tasks` is how many have been practised on; `rng`, on the CPU, is this task's own."""


def nothing_passed(bank: Params) -> Params:
    """No state: the default of `EpisodeDescent.passed`."""
    return {}


def nothing_settled(bank: Params) -> None:
    """No change: the default of `EpisodeDescent.settle_`."""


@dataclass(frozen=True)
class EpisodeDescent:
    """How a method descends on episodes. Every function takes the bank in training, whose tensors stay the same."""

    groups: tuple[Group, ...]
    """What of the bank is trained, and how."""
    step: Callable[[Params], TaskStep]
    """What adds the gradients of tasks' losses to those of the bank; asked for once, before the first task."""
    compared: Callable[[Params], Tensor]
    """The part of the gradient, flat, by which domains are compared: of the last matrix, as for FLAD."""
    passed: Callable[[Params], Params] = nothing_passed
    """The state that the loss of one more task would leave, where another process computes it."""
    settle_: Callable[[Params], None] = nothing_settled
    """Puts the bank back into its range, in place: after every step of the optimiser."""


class EpisodeTrainer:
    """A `Trainer` that descends on episodes; `sampler` is what has been seen of the domains so far.

    Raises FewshotError where the protocol can't draw episodes from a domain, or there is no such target.
    """

    def __init__(self, bank: Params, source: TaskSource, training: Training, how: EpisodeDescent) -> None:
        for domain in source.domains:
            training.protocol.check(domain.pool)
        _check_target(source, training)
        self.source, self.training, self.how = source, training, how
        self.descent = Descent(bank, how.groups)
        self.sampler: AnyState | None = training.sampler.start(len(source.domains))
        self._drawn = Prefetched(self._draw, with_thread=source.backbone.device.type != "cpu")

    @property
    def ends(self) -> tuple[int, ...]:
        return tuple(self.training.steps * (epoch + 1) for epoch in range(self.training.epochs))

    def tasks(self, steps: int) -> int:
        return steps * self.training.batch

    def advance(self, step: int) -> list[PractisedTask]:
        """One step down the mean loss of some episodes, of which this process does its share."""
        training, source, how, bank = self.training, self.source, self.how, self.descent.params
        rewarded = _Rewarded(len(source.domains)) if training.sampler.reward else None
        done = []
        for place in range(training.batch):
            number = step * training.batch + place
            which = self._domain_of(number)
            if place % source.processes.world != source.processes.rank:
                self.descent.write_(how.passed(bank))
                continue
            domain = source.domains[which]
            drawn = self._drawn.take((number, which), self._likely_next(number))
            task = drawn.on(source.backbone, domain.features)
            loss = self._task_step(task, number, _generator(source.seed, number), 1 / training.batch)
            self.descent.write_(loss.state)
            if rewarded:
                rewarded.add(which, how.compared(bank))
            done.append(PractisedTask(number, domain.pool.name, loss))
        source.processes.add_up([values.grad for values in bank.values() if values.grad is not None])
        self.descent.step(self._learning_rates(step))
        how.settle_(bank)
        if rewarded:
            self._reward(rewarded.means(source.processes), step)
        return done

    @cached_property
    def _task_step(self) -> TaskStep:
        return self.how.step(self.descent.params)

    def _domain_of(self, number: int) -> int:
        """Which domain an episode is drawn from; the sampler remembers it."""
        assert self.sampler is not None
        which, self.sampler = self.sampler.choose(Draws(self.source.seed, "domain", number))
        return which

    def _draw(self, of: tuple[int, int]) -> DrawnTask:
        """An episode by its number and its domain's."""
        number, which = of
        training = self.training
        return self.source.domains[which].drawn(training.protocol, self.source.seed, number, training.views)

    def _likely_next(self, number: int) -> tuple[int, int] | None:
        """The next episode that this process practises on; None where the rewards of this step decide it."""
        batch, processes, sampler = self.training.batch, self.source.processes, self.sampler
        assert sampler is not None
        step = number // batch
        while True:
            number += 1
            if self.training.sampler.reward and number // batch != step:
                return None
            which, sampler = sampler.choose(Draws(self.source.seed, "domain", number))
            if number % batch % processes.world == processes.rank:
                return number, which

    def _learning_rates(self, step: int) -> list[float]:
        """Of each group in this step."""
        training = self.training
        return [
            training.schedule.lr(group.lr, step / training.steps, training.epochs, group.first_lr)
            for group in self.how.groups
        ]

    def _reward(self, means: dict[int, Tensor], step: int) -> None:
        """Rewards the domains just drawn by how well their gradients agree with the target's at the new weights."""
        training, source, reward = self.training, self.source, self.training.sampler.reward
        assert reward and self.sampler is not None
        task = _target(source, training, step).task(
            training.protocol, source.backbone, source.seed + VALIDATION_SEED, step, None
        )
        self._task_step(task, self.tasks(step), _generator(source.seed, -1 - step), 1.0)
        gradient = self.how.compared(self.descent.params).clone()
        for values in self.descent.params.values():
            values.grad = None
        rewards = {which: alignment({"": gradient}, {"": mean}, reward) for which, mean in means.items()}
        self.sampler = self.sampler.update(rewards)


def _check_target(source: TaskSource, training: Training) -> None:
    names = [domain.source for domain in source.validation or source.domains]
    if training.target is not None and training.target not in names:
        raise FewshotError(
            f"The target {training.target} is none of the data sets that can be validated on.",
            f"They are {', '.join(names)}.",
        )


def _target(source: TaskSource, training: Training, step: int) -> Domain:
    """The domain to learn for in this step: the one that the settings name, or else each in turn."""
    domains = source.validation or source.domains
    if training.target is None:
        return domains[step % len(domains)]
    return next(domain for domain in domains if domain.source == training.target)


class _Rewarded:
    """The gradients of the domains drawn in a step, taken apart as they come together."""

    def __init__(self, domains: int) -> None:
        self.domains = domains
        self.sums: dict[int, Tensor] = {}
        self.counts = [0] * domains
        self.before: Tensor | float = 0.0

    def add(self, which: int, together: Tensor) -> None:
        """`together` is the sum of the gradients of all tasks up to this one."""
        self.sums[which] = together - self.before + self.sums.get(which, 0.0)
        self.counts[which] += 1
        self.before = together.clone()

    def means(self, processes: Processes) -> dict[int, Tensor]:
        """The mean gradient of each domain that any process drew."""
        like = next(iter(self.sums.values()))
        sums = torch.stack([self.sums.get(which, torch.zeros_like(like)) for which in range(self.domains)])
        counts = torch.tensor(self.counts, device=sums.device, dtype=sums.dtype)
        processes.add_up([sums, counts])
        return {which: sums[which] / counts[which] for which in range(self.domains) if counts[which] > 0}


def _generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of a task, on the CPU."""
    word = hashlib.sha256(f"{seed} router {number}".encode()).digest()[:7]
    return torch.Generator().manual_seed(int.from_bytes(word, "big"))
