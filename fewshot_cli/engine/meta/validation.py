"""How good a bank is: the accuracy on tasks of domains that meta-tuning never practises on, and which bank to keep."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.settings import Training, Validation
from fewshot_cli.engine.meta.task_source import TaskSource
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.model.passes import Passes
from fewshot_cli.engine.params import Params

VALIDATION_SEED = 1_000_003  # added to the run's own

TaskLearner: TypeAlias = Callable[[FeaturedTask], Tensor]
"""Learns a task from its support set; gives the logits `(query, way)` of its queries, whose labels it never reads."""


def unwatched(done: int, of: int) -> None:
    """Nothing: for validation that nobody watches."""


def prototypes_under(passes: Passes, weights_for: Callable[[FeaturedTask], Params]) -> TaskLearner:
    """Answers with the cosine to the class means, both under the weights that `weights_for` gives for the task."""

    def logits(task: FeaturedTask) -> Tensor:
        seen = _seen(passes, torch.cat([task.support_images, task.query_images]), weights_for(task))
        support, query = torch.split(seen, [len(task.support_images), len(task.query_images)])
        return cosine_head(class_means(support, task.support_labels, task.way)).logits(query)

    return logits


def texts_under(passes: Passes, towers: TwoTowers, weights: Params) -> TaskLearner:
    """Answers with the cosine to what is said of the classes, both towers under these weights; no image is needed."""

    def logits(task: FeaturedTask) -> Tensor:
        return cosine_head(towers.class_vectors(task.texts, weights)).logits(_seen(passes, task.query_images, weights))

    return logits


def _seen(passes: Passes, images: Tensor, weights: Params) -> Tensor:
    """Features `(n, dim)` of images under these weights, as many at a time as memory takes."""
    backbone = passes.backbone

    def embedded(chunk: int) -> Tensor:
        return torch.cat([passes.features(part, weights) for part in torch.split(images, chunk)])

    return backbone.frozen_limit.tried(embedded, backbone.chunk, backbone.device, f"through {backbone.name}")


def validated(
    learner: TaskLearner, source: TaskSource, training: Training, watch: Callable[[int, int], None] = unwatched
) -> dict[str, float]:
    """The accuracy of a learner on each validation domain, over the same tasks every time.

    `watch` is told how many of its tasks this process has done, and of how many.
    """
    domains, episodes = source.validation, training.validation.episodes
    units = [(which, number) for which in range(len(domains)) for number in range(episodes)]
    share = units[source.processes.rank :: source.processes.world]
    mine = []
    for done, (which, number) in enumerate(share, 1):
        mine.append((which, _accuracy(learner, domains[which], number, source, training)))
        watch(done, len(share))
    found = [pair for pairs in source.processes.gather(mine) for pair in pairs]
    accuracies = [sorted(accuracy for at, accuracy in found if at == which) for which in range(len(domains))]
    return {domain.pool.name: math.fsum(of) / len(of) for domain, of in zip(domains, accuracies, strict=True)}


@torch.no_grad()
def _accuracy(learner: TaskLearner, domain: Domain, number: int, source: TaskSource, training: Training) -> float:
    """The share of the queries of a task that is answered right."""
    task = domain.task(training.protocol, source.backbone, source.seed + VALIDATION_SEED, number, None)
    return float((learner(task).argmax(1) == task.query_labels).double().mean())


def best(accuracies: Sequence[float | None], validation: Validation) -> int:
    """The epoch whose bank is the result so far: the first of the most accurate, or the last."""
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    if validation.select == "last" or len(known) < len(accuracies):
        return len(accuracies) - 1
    return known.index(max(known))


def is_out_of_patience(accuracies: Sequence[float | None], validation: Validation) -> bool:
    """Whether no better bank came for so many epochs that the run ends."""
    if validation.patience is None or not accuracies:
        return False
    return len(accuracies) - 1 - best(accuracies, validation) >= validation.patience
