"""The protocol of meta-tuning: what learns from many tasks before anybody's folder is seen, and leaves a bank."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fewshot_cli.engine.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.meta.fast_path import FastPath
    from fewshot_cli.engine.meta.loop import Trainer
    from fewshot_cli.engine.meta.settings import FastPathChoice, Training
    from fewshot_cli.engine.meta.task_source import TaskSource
    from fewshot_cli.engine.meta.validation import TaskLearner
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.model.passes import Passes
    from fewshot_cli.engine.params import Params


@dataclass(frozen=True, eq=False)
class SavedBank:
    """What a bank's file holds, as docs/bank-format.md has it.

    `kind` names what makes a learner of it: see methods.from_bank. `shapes` are the parameters that a change is for,
    by name; `delta` `(size,)` is that change, one parameter after the other, and `gates` `(experts, size)` are in
    [0, 1]. A bank that changes no weights has none of these, and all it learned in `tensors` and `settings`.
    """

    kind: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    delta: Tensor | None = None
    gates: Tensor | None = None
    tensors: Params = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class MetaMethod(Settings):
    """One way of meta-tuning: its fields are the section `method` of a recipe; what it learns is a bank of tensors."""

    name: str

    @abstractmethod
    def start(self, backbone: Backbone, seed: int) -> Params:
        """The bank before meta-tuning."""

    @abstractmethod
    def trainer(self, bank: Params, source: TaskSource, training: Training) -> Trainer:
        """What trains a copy of the bank: how long a run is, and what one step does.

        Raises FewshotError where the method can't practise on these domains.
        """

    @abstractmethod
    def learner(self, bank: Params, passes: Passes, tasks: int) -> TaskLearner:
        """How the next task is learned from the bank, after so many tasks of practice: for validation.

        The bank must not change while tasks are learned.
        """

    @abstractmethod
    def saved_bank(self, bank: Params, backbone: Backbone, tasks: int) -> SavedBank:
        """What to keep of the bank after so many tasks of practice."""

    @property
    def needs_text(self) -> bool:
        """Whether it takes the names of the classes for knowledge, so that it needs a backbone with a text tower."""
        return False

    @property
    def learning_rates(self) -> dict[str, float]:
        """The settings to make smaller where a run diverges."""
        return {}

    def unread(self, training: Training) -> tuple[str, ...]:
        """The settings of training that change nothing; a recipe that has them is refused."""
        return ("fast_path",)

    def fast_path(
        self, wanted: FastPathChoice, device: torch.device, warn: Callable[[str], None]
    ) -> FastPath[Any] | None:
        """What takes this method's steps on a device sooner than the plain way, proved; None where nothing does.

        `warn` hears in a sentence where it should and can't. Raises FewshotError where it is wanted and can't.
        """
        return None

    def tasks_of_a_step(self, training: Training) -> int:
        """How many tasks a step practises on, which several processes can share."""
        return training.batch
