"""MAMF: fine-tuning on many small tasks in turn, without a meta-gradient (Wang et al., 2022, arXiv:2203.04904)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.train.settings import TASK_TUNING, Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.dense import moved_weights
from fewshot_cli.methods.meta import MetaMethod, SavedBank

if TYPE_CHECKING:
    from fewshot_cli.engine.meta.loop import Trainer
    from fewshot_cli.engine.meta.settings import Training
    from fewshot_cli.engine.meta.task_source import TaskSource
    from fewshot_cli.engine.meta.validation import TaskLearner
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.model.passes import Passes
    from fewshot_cli.engine.params import Params

OF_EPISODES = ("sampler", "target", "episodes", "batch", "schedule", "precision", "fast_path")
"""The settings of training that only methods read which practise on episodes."""


class MAMF(MetaMethod):
    """Every task is some of all domains' classes with all their images; there are no queries, and no episodes.

    Classical fine-tuning, which MAMF is compared with, is one task with all classes: `way: all`. Published is CLIP,
    which is `tuning.head: text`: both towers are trained against the names of the classes. `training.views` shows each
    image of a task in one view in all passes. `tuning.scale: learned` trains CLIP's scale along; the bank keeps it, and
    the next task begins there. Differs from the release: see engine.meta.mamf, and docs/clip.md.
    """

    name: Literal["mamf"] = "mamf"
    way: int | Literal["all"] = Field(default=5)
    tasks: int | Literal["auto"] = "auto"
    """How many; `auto` is so many that a class is missed by all of them with probability 0.001."""
    tuning: Tuning = TASK_TUNING
    """How a task is trained on. Published: Adam at 1e-6, eight passes."""
    heads: Literal["clip", "fresh"] = "clip"
    """The projections of both towers at the start: `clip` keeps CLIP's own, and what names are worth without an image;
    `fresh`, as published, draws them anew."""

    @field_validator("heads")
    @classmethod
    def _of_two_towers(cls, heads: str, given: ValidationInfo) -> str:
        if "tuning" in given.data and given.data["tuning"].head != "text":
            cls.idle(heads, given, "only `tuning.head: text` compares what two towers project")
        return heads

    @property
    def needs_text(self) -> bool:
        return self.tuning.head == "text"

    def count(self, classes: int) -> int:
        """How many tasks to draw of so many classes. Raises FewshotError where there are too few for one."""
        from fewshot_cli.engine.meta.mamf import task_count

        if self.ways(classes) > classes or self.ways(classes) < 2:
            raise FewshotError(
                f"A task of {self.way} classes can't be drawn from {classes}.",
                f"Use --set method.way=N with N from 2 to {classes}.",
            )
        return task_count(classes, self.ways(classes)) if self.tasks == "auto" else self.tasks

    def ways(self, classes: int) -> int:
        return classes if self.way == "all" else self.way

    def unread(self, training: Training) -> tuple[str, ...]:
        return OF_EPISODES if training.validation.episodes else (*OF_EPISODES, "protocol")

    def tasks_of_a_step(self, training: Training) -> int:
        return 1

    def start(self, backbone: Backbone, seed: int) -> Params:
        from fewshot_cli.engine.meta.mamf import fresh_heads, learned_scale
        from fewshot_cli.engine.model.clip.towers import image_params
        from fewshot_cli.engine.train.text import two_towers

        if not self.needs_text:
            return dict(image_params(backbone))
        towers = two_towers(backbone)
        heads = fresh_heads(towers, seed) if self.heads == "fresh" else {}
        return dict(towers.params) | heads | (learned_scale(towers) if self.tuning.scale == "learned" else {})

    def trainer(self, bank: Params, source: TaskSource, training: Training) -> Trainer:
        from fewshot_cli.engine.meta.mamf import TaskByTaskTrainer

        tasks, way = self.count(source.classes), self.ways(source.classes)
        return TaskByTaskTrainer(bank, source, training, tasks, way, self.tuning)

    def learner(self, bank: Params, passes: Passes, tasks: int) -> TaskLearner:
        from fewshot_cli.engine.meta.mamf import of_towers
        from fewshot_cli.engine.meta.validation import prototypes_under, texts_under
        from fewshot_cli.engine.train.text import two_towers

        if self.needs_text:
            return texts_under(passes, two_towers(passes.backbone), of_towers(bank))
        return prototypes_under(passes, lambda task: bank)

    def saved_bank(self, bank: Params, backbone: Backbone, tasks: int) -> SavedBank:
        from fewshot_cli.engine.model.clip.names import SCALE

        moved = moved_weights(bank, backbone)
        return replace(moved, tensors={SCALE: bank[SCALE].detach()}) if SCALE in bank else moved
