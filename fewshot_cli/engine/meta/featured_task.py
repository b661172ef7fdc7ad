"""A practice task with what the frozen backbone sees in it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Task
from fewshot_cli.engine.head.linear import class_means

PADDING = -100
"""The label of an image that only fills a task up to a size; torch's cross-entropy leaves it out."""


@dataclass(frozen=True, eq=False)
class FeaturedTask(Task):
    """An episode with the frozen backbone's features `(n, dim)` of its images.

    They take no part in the gradient, so they may come from a cache. `texts` are what a text tower reads of each class,
    where one does. An image with the label PADDING counts nowhere,
    nor does a class without an image in the support set: see `shape_buckets.padded`.
    """

    support_features: Tensor
    query_features: Tensor
    texts: tuple[tuple[str, ...], ...] = ()

    @property
    def classes(self) -> Tensor:
        """Which of the `way` classes are there, `(way,)`."""
        return (self.support_labels.unsqueeze(1) == torch.arange(self.way, device=self.support_labels.device)).any(0)

    @property
    def frozen_prototypes(self) -> Tensor:
        """The mean frozen feature of each class, `(way, dim)`."""
        return class_means(self.support_features, self.support_labels, self.way)
