"""MAMF: fine-tuning on many small tasks in turn, without a meta-gradient (Wang et al., 2022, arXiv:2203.04904)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.train.settings import TASK_TUNING, Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.meta import Learned, MetaMethod

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.adaptation import Run
    from fewshot_cli.engine.meta.domain import Domain
    from fewshot_cli.engine.model.flat_params import FlatBackbone
    from fewshot_cli.engine.params import Params


class MAMF(MetaMethod):
    """Every task is some of all domains' classes with all their images; there are no queries, and no episodes.

    Classical fine-tuning, which MAMF is compared with, is one task with all classes: `way: all`.
    """

    name: Literal["mamf"] = "mamf"
    way: int | Literal["all"] = Field(default=5)
    tasks: int | Literal["auto"] = "auto"
    """How many; `auto` is so many that a class is missed by all of them with probability 0.001."""
    tuning: Tuning = TASK_TUNING
    """How a task is trained on. Published: Adam at 1e-6, eight passes."""

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

    def start(self, net: FlatBackbone, seed: int) -> Params:
        return dict(net.backbone.params)

    def practised(self, bank: Params, net: FlatBackbone, domains: Sequence[Domain], number: int, run: Run) -> Params:
        """The bank after task `number`; `run.watch` hears of each of its steps."""
        import numpy as np
        import torch

        from fewshot_cli.engine.meta.mamf import task_classes, task_seed, trained_on_task

        classes = [(domain, label) for domain in domains for label in range(len(domain.pool.classes))]
        way = self.ways(len(classes))
        chosen = [classes[i] for i in task_classes(len(classes), way, run.seed, number)]
        rows = [domain.rows[domain.pool.by_class[label]] for domain, label in chosen]
        images = torch.cat(
            [domain.images[torch.from_numpy(of_class)] for (domain, _), of_class in zip(chosen, rows, strict=True)]
        )
        labels = torch.from_numpy(np.repeat(np.arange(way), [len(of_class) for of_class in rows]))
        labels = labels.to(net.base.device)
        of_task = replace(run, seed=task_seed(run.seed, number))
        return trained_on_task(bank, net.backbone, images, labels, way, self.tuning, of_task)

    def weights(self, bank: Params, net: FlatBackbone, tasks: int) -> Callable[[Tensor], Tensor]:
        same = net.layout.flatten(bank)
        return lambda prototypes: same

    def learned(self, bank: Params, net: FlatBackbone, tasks: int) -> Learned:
        return Learned(net.layout.flatten(bank) - net.base)
