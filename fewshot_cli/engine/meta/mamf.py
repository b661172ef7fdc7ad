"""MAMF: training on many small tasks in turn, without a meta-gradient (Wang et al., 2022, arXiv:2203.04904).

The cheap baseline of meta-tuning. A task is n of the N classes with all their images; the backbone and a head of this
task's own are trained on it for a few passes, with an optimiser of its own, and go on to the next task from where they
are. There are no queries. Classical fine-tuning is the one task with n = N. With two towers, as published, a task's
head is what the text tower makes of the names of its classes, and both towers are trained.

    for i in range(task_count(classes, way)):
        chosen = task_classes(classes, way, seed, i)
        weights = trained_on_task(weights, backbone, images, labels, way)    # of the chosen classes
"""

import math

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Images, Run, Support
from fewshot_cli.engine.data.crops import draw_views, viewed_pictures
from fewshot_cli.engine.data.domain_sampling import AnyState
from fewshot_cli.engine.meta.practice_task import MetaLoss, PractisedTask
from fewshot_cli.engine.meta.settings import Training
from fewshot_cli.engine.meta.task_source import TaskSource
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.names import SCALE
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.rng import Draws, Numbers
from fewshot_cli.engine.train.fine_tune import tune
from fewshot_cli.engine.train.optimiser import Descent
from fewshot_cli.engine.train.settings import TASK_TUNING, Tuning
from fewshot_cli.errors import FewshotError

MISSED = 0.001
IMAGE_HEAD = ("visual.head.weight", "visual.head.bias", 1)
TEXT_HEADS = (
    ("text.text_projection", "", 0),
    ("text.text_projection.weight", "text.text_projection.bias", 1),
)
"""Weight and bias of the projections, and the weight's axis that is as long as what goes in."""


def task_count(classes: int, way: int, missed: float = MISSED) -> int:
    """How many tasks of `way` of the classes to draw until all of them miss a class with probability `missed`, about.

    A class is missed by K tasks with probability (1 - n / N)^K, so K = ln(missed) / ln(1 - n / N), rounded as the
    release does, halves to even: a class may be missed a little more often than asked. With all classes it is 1.
    """
    if way == classes:
        return 1
    return max(1, round(math.log(missed) / math.log(1 - way / classes)))


def task_classes(classes: int, way: int, seed: int, index: int) -> Numbers:
    """The classes `(way,)` of task `index`, in random order: each set of them as likely as any other."""
    return Draws(seed, "mamf task", index).choose(classes, way)


def task_seed(seed: int, index: int) -> int:
    """The seed of the random numbers of training on task `index`, so that no two tasks draw the same batches."""
    return Draws(seed, "mamf training", index).integer(0, 2**63 - 1)


def trained_on_task(
    weights: Params,
    backbone: Backbone,
    images: Images,
    labels: Tensor,
    way: int,
    tuning: Tuning = TASK_TUNING,
    run: Run | None = None,
    texts: tuple[tuple[str, ...], ...] = (),
) -> Params:
    """The backbone's weights after training on a task's images with labels `(n,)` in [0, way).

    `weights` name the parameters to train, all or some. The head is scale x cosine of feature and class vector; class
    vectors start at the prototypes that these weights give, are trained along and then forgotten. With `head: text`
    they are what the text tower makes of `texts`, what is said of each class; a learned scale is trained with the
    weights, as the release has it, where they have it.

    Differs from the release, which is CLIP: without a text tower class vectors are prototypes; every batch is full.
    """
    features = backbone.frozen_features(images[torch.arange(len(images))], of_towers(weights))
    support = Support(images, labels, features, way, texts=texts)
    trained, _ = tune(backbone, support, weights, of_towers, tuning, run or Run())
    return trained


def learned_scale(towers: TwoTowers) -> Params:
    """The logarithm of the towers' scale, to be trained, stored and begun from like a weight: as CLIP has it."""
    return {SCALE: torch.tensor(math.log(towers.scale), device=towers.device)}


def of_towers(bank: Params) -> Params:
    """What of a bank are weights of the backbone: all but the scale."""
    return {name: values for name, values in bank.items() if name != SCALE}


def fresh_heads(towers: TwoTowers, seed: int) -> Params:
    """The projections of both towers into their common space, drawn anew: weights Kaiming normal, biases uniform.

    Differs from the release: a tower without a bias there gets none, which are both of CLIP's. The bias of the norm
    before shifts features as freely, but starts, and moves in a step, otherwise.
    Raises FewshotError where a tower has no linear projection of its own.
    """
    rng, fresh = torch.Generator().manual_seed(seed), dict[str, Tensor]()
    for weight, bias, width_axis in IMAGE_HEAD, *TEXT_HEADS:
        if weight not in towers.params:
            continue
        shape = towers.params[weight].shape
        width = shape[width_axis]
        fresh[weight] = (2 / width) ** 0.5 * torch.randn(shape, generator=rng)
        if bias in towers.params:
            fresh[bias] = (2 * torch.rand(towers.params[bias].shape, generator=rng) - 1) * width**-0.5
    if IMAGE_HEAD[0] not in fresh or not any(weight in fresh for weight, *_ in TEXT_HEADS):
        raise FewshotError(
            f"{towers.name} has no linear projection after each tower that could be drawn anew.",
            "Use a vision transformer of CLIP, such as --backbone clip:ViT-B-16/openai, or --set method.heads=clip.",
        )
    return {name: values.to(towers.device) for name, values in fresh.items()}


class TaskByTaskTrainer:
    """A `Trainer` that goes from one task to the next: each begins at the weights that the last one left.

    `tasks` of them, of `way` classes of all domains, with all their images, in at most `training.epochs` epochs. With
    `training.views` each image of a task is shown in one view of it, the same in all passes, as the release has it.
    """

    sampler: AnyState | None = None

    def __init__(
        self, bank: Params, source: TaskSource, training: Training, tasks: int, way: int, tuning: Tuning
    ) -> None:
        self.source, self.views, self.way, self.tuning = source, training.views, way, tuning
        self.descent = Descent(bank, ())
        epochs = min(training.epochs, tasks)
        self.ends = tuple(tasks * (epoch + 1) // epochs for epoch in range(epochs))

    def tasks(self, steps: int) -> int:
        return steps

    def advance(self, step: int) -> list[PractisedTask]:
        """One task; its loss is the mean over the last five steps of its training."""
        losses: list[float] = []
        run = Run(task_seed(self.source.seed, step), lambda step, steps, loss: losses.append(loss))
        images, labels, texts = self._task(step)
        weights = trained_on_task(
            self.descent.params, self.source.backbone, images, labels, self.way, self.tuning, run, texts
        )
        self.descent.write_(weights)
        last = torch.tensor(sum(losses[-5:]) / max(1, len(losses[-5:])))
        return [PractisedTask(step, "all", MetaLoss(last, None, {"support_ce": last}))]

    def _task(self, number: int) -> tuple[Tensor, Tensor, tuple[tuple[str, ...], ...]]:
        """All images of some of the domains' classes, or a view of each; their labels `(n,)`, what is said of them."""
        classes = [(domain, label) for domain in self.source.domains for label in range(len(domain.pool.classes))]
        chosen = [classes[i] for i in task_classes(len(classes), self.way, self.source.seed, number)]
        rows = [domain.rows[domain.pool.by_class[label]] for domain, label in chosen]
        images = torch.cat(
            [domain.images[torch.from_numpy(of_class)] for (domain, _), of_class in zip(chosen, rows, strict=True)]
        )
        if self.views:
            draws = Draws(self.source.seed, "mamf views", number)
            drawn = draw_views(draws, len(images), self.views.scale, self.views.ratio, self.views.jitter)
            images = viewed_pictures(images, drawn)
        labels = torch.from_numpy(np.repeat(np.arange(self.way), [len(of_class) for of_class in rows]))
        texts = tuple(domain.texts[label] for domain, label in chosen if domain.texts)
        return images, labels.to(self.source.backbone.device), texts
