"""The loop of meta-tuning: training steps and validation; it can stop after any step. No files, no printing.

    practice = Practice.start(method, training, source)
    for epoch in epochs(practice):
        print(epoch.number, epoch.loss, epoch.accuracy)
    bank = practice.bank

`practice.state()` is all that it takes to go on in another process: see docs/meta-tuning.md.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from fewshot_cli.engine.data.domain_sampling import AnyState, resumed
from fewshot_cli.engine.meta.practice_task import PractisedTask
from fewshot_cli.engine.meta.settings import Training
from fewshot_cli.engine.meta.task_source import TaskSource
from fewshot_cli.engine.meta.validation import TaskLearner, best, is_out_of_patience, unwatched, validated
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.passes import Passes
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.optimiser import Descent
from fewshot_cli.errors import FewshotError

RECENT = 20  # tasks whose mean is the loss of an epoch
LOOKED_AT_EVERY = 20  # steps after which figures leave a GPU: to wait for them in each step would stop it

Figures: TypeAlias = dict[str, Any]
"""A task as the log has it: its step, episode, domain, loss, accuracy, the loss's parts, and lists of shares."""


class Trainer(Protocol):
    """How a method goes through a run. All that changes is in `descent` and `sampler`."""

    descent: Descent
    """The bank in training, and the memory of its optimisers."""
    sampler: AnyState | None
    """What has been seen of the domains, where the method draws from them by that."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The number of steps after which each epoch ends."""

    def tasks(self, steps: int) -> int:
        """How many tasks so many steps practise on."""

    def advance(self, step: int) -> list[PractisedTask]:
        """Does this step, the first being 0; gives the tasks that this process did in it."""


class MetaLearning(Protocol):
    """What the loop asks of a method."""

    def start(self, backbone: Backbone, seed: int, /) -> Params:
        """The bank before meta-tuning."""

    def trainer(self, bank: Params, source: TaskSource, training: Training, /) -> Trainer:
        """What trains a copy of the bank on tasks of this source."""

    def learner(self, bank: Params, passes: Passes, tasks: int, /) -> TaskLearner:
        """How the next task is learned from the bank, after so many tasks of practice."""


@dataclass(frozen=True)
class Epoch:
    """What was found at the end of an epoch.

    `loss` is the mean over the last tasks, `accuracy` that over the validation domains. `shares` are the lists that the
    last task left for the log.
    """

    number: int
    tasks: int
    loss: float
    accuracy: float | None
    validation: Mapping[str, float]
    shares: Mapping[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class PracticeState:
    """All that it takes to go on with a run: bank, optimisers' memory, sampler as JSON, and what was seen so far."""

    step: int
    bank: Params
    memory: Params
    sampler: str | None
    epochs: tuple[Epoch, ...] = ()
    recent: tuple[Figures, ...] = ()


class Diverged(FewshotError):
    """A loss was no finite number."""


@dataclass(eq=False)
class Practice:
    """A run between two steps, of which `step` are done."""

    method: MetaLearning
    training: Training
    source: TaskSource
    trainer: Trainer
    step: int = 0
    epochs: list[Epoch] = field(default_factory=list)
    recent: list[Figures] = field(default_factory=list)
    """The figures of the last tasks that were read."""
    unread: list[tuple[int, PractisedTask]] = field(default_factory=list)
    """Tasks with their steps whose figures have not been read yet."""

    @classmethod
    def start(cls, method: MetaLearning, training: Training, source: TaskSource) -> "Practice":
        """The run before its first step. Raises FewshotError where the method can't practise on these domains."""
        bank = method.start(source.backbone, source.seed)
        return cls(method, training, source, method.trainer(bank, source, training))

    @property
    def bank(self) -> Params:
        """The bank in training."""
        return self.trainer.descent.params

    @property
    def tasks(self) -> int:
        """How many have been practised on."""
        return self.trainer.tasks(self.step)

    @property
    def ends(self) -> tuple[int, ...]:
        """The number of steps after which each epoch ends."""
        return self.trainer.ends

    def advance(self) -> None:
        """One step more."""
        self.unread += [(self.step, task) for task in self.trainer.advance(self.step)]
        self.step += 1

    @property
    def is_readable(self) -> bool:
        """Whether to look at what was seen now; on a GPU that waits for it."""
        is_on_cpu = self.source.backbone.device.type == "cpu"
        return is_on_cpu or self.step % LOOKED_AT_EVERY == 0 or self.step in self.ends

    def read(self) -> list[Figures]:
        """What was seen in each task since the last time, by all processes, in the order of the tasks.

        Raises Diverged where a loss was no finite number.
        """
        mine = [_figures(step, task) for step, task in self.unread]
        self.unread.clear()
        records = [record for found in self.source.processes.gather(mine) for record in found]
        records.sort(key=lambda record: int(record["episode"]))
        for record in records:
            if not math.isfinite(record["loss"]):
                raise _diverged(record)
        self.recent = (self.recent + records)[-RECENT:]
        return records

    def end_epoch(self, watch: Callable[[int, int], None] = unwatched) -> Epoch:
        """Validates the bank; `watch` is told of its tasks as `validated` says."""
        if self.unread:
            self.read()
        learner = self.method.learner(self.bank, self.source.passes, self.tasks)
        found = validated(learner, self.source, self.training, watch)
        epoch = Epoch(
            number=len(self.epochs),
            tasks=self.tasks,
            loss=mean(self.recent, "loss"),
            accuracy=sum(found.values()) / len(found) if found else None,
            validation=found,
            shares={name: values for name, values in self.recent[-1].items() if isinstance(values, list)},
        )
        self.epochs.append(epoch)
        return epoch

    @property
    def best(self) -> int:
        """The epoch whose bank is the result so far."""
        return best([epoch.accuracy for epoch in self.epochs], self.training.validation)

    @property
    def is_out_of_patience(self) -> bool:
        """Whether no better bank came for so many epochs that the run ends."""
        return is_out_of_patience([epoch.accuracy for epoch in self.epochs], self.training.validation)

    def state(self) -> PracticeState:
        """What `restore` goes on from; figures that are unread are lost. The tensors are the run's own, not copies."""
        trainer = self.trainer
        sampler = None if trainer.sampler is None else trainer.sampler.model_dump_json()
        memory = trainer.descent.state()
        return PracticeState(self.step, self.bank, memory, sampler, tuple(self.epochs), tuple(self.recent))

    def restore(self, state: PracticeState) -> None:
        """Goes back to `state`. Raises ValueError where it is of another method, and has other tensors."""
        if state.bank.keys() != self.bank.keys():
            raise ValueError(f"a bank of {', '.join(state.bank)} is none of {', '.join(self.bank)}")
        self.trainer.descent.write_(state.bank)
        self.trainer.descent.restore(state.memory)
        self.trainer.sampler = None if state.sampler is None else resumed(state.sampler)
        self.step, self.epochs, self.recent = state.step, list(state.epochs), list(state.recent)


def nothing() -> None:
    """Nothing: for steps that nobody watches."""


def epochs(
    practice: Practice, after_step: Callable[[], None] = nothing, watch: Callable[[int, int], None] = unwatched
) -> Iterator[Epoch]:
    """Practises up to the last epoch, or until no better bank comes, and gives each epoch as it ends."""
    for end in practice.ends[len(practice.epochs) :]:
        if practice.is_out_of_patience:
            return
        while practice.step < end:
            practice.advance()
            after_step()
        yield practice.end_epoch(watch)


def mean(records: Sequence[Figures], name: str) -> float:
    """The mean of a figure over tasks."""
    return math.fsum(record[name] for record in records) / len(records)


def _figures(step: int, task: PractisedTask) -> Figures:
    """The figures of a task, read from where they were computed."""
    loss = task.loss
    return {
        "step": step,
        "episode": task.number,
        "domain": task.domain,
        "loss": loss.total.item(),
        **({} if loss.accuracy is None else {"accuracy": loss.accuracy.item()}),
        **{name: values.item() for name, values in loss.parts.items()},
        **{name: values.tolist() for name, values in loss.seen.items()},
    }


def _diverged(record: Figures) -> Diverged:
    wrong = [name for name, value in record.items() if isinstance(value, float) and not math.isfinite(value)]
    return Diverged(
        f"Meta-tuning broke off in episode {record['episode']}, a task of {record['domain']}: "
        f"{' and '.join(name for name in wrong if name != 'accuracy')} is no finite number.",
        "Start again with smaller learning rates.",
    )
