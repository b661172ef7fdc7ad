"""Meta-tuning step by step: the bank in training, the tasks it practises on, what is seen on the way."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.data.domain_sampling import AnyState
from fewshot_cli.engine.data.rewards import alignment
from fewshot_cli.engine.distributed import Processes
from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.rng import Draws
from fewshot_cli.engine.train.optimiser import Descent
from fewshot_cli.errors import FewshotError
from fewshot_cli.jobs.meta.tasks import Ground
from fewshot_cli.methods.mamf import MAMF
from fewshot_cli.methods.meta import EpisodicMethod, MetaLoss, TaskStep
from fewshot_cli.recipes import MetaRecipe

LOOKED_AT_EVERY = 20  # steps after which figures leave a GPU: to wait for them in each step would stop it
VALIDATION_SEED = 1_000_003  # added to the run's own


@dataclass(frozen=True, eq=False)
class Seen:
    """A practice task that was done in `step`: its number, its domain, and what its loss was."""

    step: int
    number: int
    domain: str
    found: MetaLoss


@dataclass(eq=False)
class Practice:
    """A run between two steps: the bank in `descent`, the sampler's state, and how many steps are done."""

    recipe: MetaRecipe
    ground: Ground
    descent: Descent
    sampler: AnyState
    step: int = 0
    unread: list[Seen] = field(default_factory=list)

    @classmethod
    def start(cls, recipe: MetaRecipe, ground: Ground) -> "Practice":
        method = recipe.method
        bank = method.start(ground.net, ground.seed)
        groups = method.groups(bank) if isinstance(method, EpisodicMethod) else ()
        return cls(recipe, ground, Descent(bank, groups), recipe.training.sampler.start(len(ground.domains)))

    @cached_property
    def _task_step(self) -> TaskStep:
        method = self.recipe.method
        assert isinstance(method, EpisodicMethod)
        return method.step(self.bank, self.ground.net)

    @property
    def bank(self) -> Params:
        return self.descent.params

    @property
    def tasks(self) -> int:
        """How many have been practised on."""
        return self.step if isinstance(self.recipe.method, MAMF) else self.step * self.recipe.training.batch

    @property
    def ends(self) -> list[int]:
        """The number of steps after which each epoch ends."""
        training, method = self.recipe.training, self.recipe.method
        if isinstance(method, MAMF):
            count = method.count(self.ground.classes)
            epochs = min(training.epochs, count)
            return [count * (epoch + 1) // epochs for epoch in range(epochs)]
        return [training.steps * (epoch + 1) for epoch in range(training.epochs)]

    def advance(self) -> None:
        """One step more."""
        method = self.recipe.method
        if isinstance(method, EpisodicMethod):
            self._descend(method)
        elif isinstance(method, MAMF):
            self._practise(method)
        self.step += 1

    def _practise(self, method: MAMF) -> None:
        """One task of MAMF."""
        losses: list[float] = []
        run = Run(self.ground.seed, lambda step, steps, loss: losses.append(loss))
        bank = method.practised(self.bank, self.ground.net, self.ground.domains, self.step, run)
        self.descent.write_(bank)
        last = torch.tensor(sum(losses[-5:]) / max(1, len(losses[-5:])))
        found = MetaLoss(last, None, {"support_ce": last})
        self.unread.append(Seen(self.step, self.step, "all", found))

    def _descend(self, method: EpisodicMethod) -> None:
        """One step down the mean loss of some episodes, of which each process does its share."""
        training, ground, net = self.recipe.training, self.ground, self.ground.net
        rewarded = _Rewarded(len(ground.domains)) if training.sampler.reward else None
        for place in range(training.batch):
            number = self.step * training.batch + place
            which, self.sampler = self.sampler.choose(Draws(ground.seed, "domain", number))
            if place % ground.processes.world != ground.processes.rank:
                self.descent.write_(method.passed(self.bank))
                continue
            domain = ground.domains[which]
            task = domain.task(training.protocol, net.backbone, ground.seed, number, training.views)
            found = self._task_step(task, number, _generator(ground.seed, number), 1 / training.batch)
            self.descent.write_(found.state)
            if rewarded:
                rewarded.add(which, method.compared(self.bank, net))
            self.unread.append(Seen(self.step, number, domain.pool.name, found))
        gradients = [values.grad for values in self.bank.values() if values.grad is not None]
        ground.processes.add_up(gradients)
        self.descent.step(self.learning_rates(method))
        method.settle_(self.bank)
        if rewarded:
            self._reward(method, rewarded)

    def learning_rates(self, method: EpisodicMethod) -> list[float]:
        """Of each group in this step."""
        training = self.recipe.training
        epoch = self.step / training.steps
        return [
            training.schedule.lr(group.lr, epoch, training.epochs, method.first_lr(group))
            for group in self.descent.groups
        ]

    def _reward(self, method: EpisodicMethod, rewarded: "_Rewarded") -> None:
        """Rewards the domains just drawn by how well their gradients agree with the target's at the new weights."""
        reward = self.recipe.training.sampler.reward
        assert reward
        means = rewarded.means(self.ground.processes)
        target = self._target()
        task = target.task(
            self.recipe.training.protocol, self.ground.net.backbone, self.ground.seed + VALIDATION_SEED, self.step, None
        )
        rng = _generator(self.ground.seed, -1 - self.step)
        self._task_step(task, self.tasks, rng, 1.0)
        gradient = method.compared(self.bank, self.ground.net).clone()
        for values in self.bank.values():
            values.grad = None
        rewards = {which: alignment({"": gradient}, {"": mean}, reward) for which, mean in means.items()}
        self.sampler = self.sampler.update(rewards)

    def read(self) -> list[dict[str, Any]]:
        """What was seen in each task since the last time, by all processes, in the order of the tasks.

        Raises FewshotError where a loss was no finite number.
        """
        mine = [_record(seen) for seen in self.unread]
        self.unread.clear()
        records = [record for found in self.ground.processes.gather(mine) for record in found]
        records.sort(key=lambda record: int(record["episode"]))
        for record in records:
            if not math.isfinite(record["loss"]):
                raise _diverged(record, self.recipe)
        return records

    @property
    def is_readable(self) -> bool:
        """Whether to look at what was seen now; on a GPU that waits for it."""
        return self.ground.net.base.device.type == "cpu" or self.step % LOOKED_AT_EVERY == 0

    def _target(self) -> Domain:
        """The domain to learn for in this step: the one that the recipe names, or else each in turn."""
        name, domains = self.recipe.training.target, self.ground.validation or self.ground.domains
        if name is None:
            return domains[self.step % len(domains)]
        return next(domain for domain in domains if domain.source == name)


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


def validated(practice: Practice, watch: Callable[[int, int], None]) -> dict[str, float]:
    """The accuracy of prototypes under the bank on each validation domain, over the same tasks every time.

    `watch` is told how many of its tasks this process has done, and of how many.
    """
    training, ground = practice.recipe.training, practice.ground
    units = [
        (which, number) for which in range(len(ground.validation)) for number in range(training.validation.episodes)
    ]
    share = units[ground.processes.rank :: ground.processes.world]
    weights = practice.recipe.method.weights(practice.bank, ground.net, practice.tasks)
    mine = []
    for done, (which, number) in enumerate(share, 1):
        mine.append((which, _answered(practice, weights, ground.validation[which], number)))
        watch(done, len(share))
    found = [pair for pairs in ground.processes.gather(mine) for pair in pairs]
    accuracies = [sorted(accuracy for at, accuracy in found if at == which) for which in range(len(ground.validation))]
    return {
        domain.pool.name: math.fsum(found) / len(found)
        for domain, found in zip(ground.validation, accuracies, strict=True)
    }


@torch.no_grad()
def _answered(practice: Practice, weights_for: Callable[[Tensor], Tensor], domain: Domain, number: int) -> float:
    """The share of the queries of a task that is answered right."""
    recipe, ground = practice.recipe, practice.ground
    net = ground.net
    task = domain.task(recipe.training.protocol, net.backbone, ground.seed + VALIDATION_SEED, number, None)
    weights = weights_for(task.frozen_prototypes)
    images = torch.cat([task.support_images, task.query_images])
    features = torch.cat([net.features(part, weights) for part in torch.split(images, net.backbone.chunk)])
    support, query = torch.split(features, [len(task.support_images), len(task.query_images)])
    answers = cosine_head(class_means(support, task.support_labels, task.way)).logits(query).argmax(1)
    return float((answers == task.query_labels).double().mean())


def _generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of a task, on the CPU."""
    word = hashlib.sha256(f"{seed} router {number}".encode()).digest()[:7]
    return torch.Generator().manual_seed(int.from_bytes(word, "big"))


def _record(seen: Seen) -> dict[str, Any]:
    """The figures of a task, read from where they were computed."""
    return {
        "step": seen.step,
        "episode": seen.number,
        "domain": seen.domain,
        "loss": seen.found.total.item(),
        **({} if seen.found.accuracy is None else {"accuracy": seen.found.accuracy.item()}),
        **{name: values.item() for name, values in seen.found.parts.items()},
        **{name: values.tolist() for name, values in seen.found.seen.items()},
    }


def _diverged(record: dict[str, Any], recipe: MetaRecipe) -> FewshotError:
    wrong = [name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
    rates = [name for name in ("lr", "delta_lr", "router_lr") if name in type(recipe.method).model_fields]
    tries = " ".join(f"--set method.{name}={getattr(recipe.method, name) / 3:.2g}" for name in rates)
    return FewshotError(
        f"Meta-tuning broke off in episode {record['episode']}, a task of {record['domain']}: "
        f"{' and '.join(name for name in wrong if name != 'accuracy')} is no finite number.",
        f"Start again with smaller learning rates{': ' + tries if tries else ''}.",
    )
