"""Tasks of a few sizes in place of all, since what is recorded for a GPU serves one size only."""

import math
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.meta.featured_task import PADDING, FeaturedTask

SMALLEST = 16  # images
CLASSES = 64


@dataclass(frozen=True)
class Bucket:
    """How many images and classes a task is filled up to."""

    support: int
    query: int
    way: int


def bucket_of(task: FeaturedTask) -> Bucket:
    """The smallest bucket that holds the task.

    Numbers of images are 16, 24, 32, 48, 64, 96 ...: powers of two and the middles between them. Steps are of √2 on
    average, so that a task of Meta-Dataset falls into one of some forty buckets and a fifth of its images are padding;
    finer steps would waste less on that, and more on recording. All are multiples of 8, as matrix units like them.
    Classes go by 64, which is more than Meta-Dataset's 50: a class costs next to nothing.
    """
    support, query = _images(len(task.support_labels)), _images(len(task.query_labels))
    return Bucket(support, query, CLASSES * math.ceil(task.way / CLASSES))


def padded(task: FeaturedTask, bucket: Bucket) -> FeaturedTask:
    """The task, filled up with black images labelled PADDING and classes without an image.

    `smat_loss` leaves them out, so that loss and gradients stay what they are.
    """
    support, query = bucket.support - len(task.support_labels), bucket.query - len(task.query_labels)
    return replace(
        task,
        support_images=_longer(task.support_images, support),
        support_labels=_longer(task.support_labels, support, PADDING),
        support_features=_longer(task.support_features, support),
        query_images=_longer(task.query_images, query),
        query_labels=_longer(task.query_labels, query, PADDING),
        query_features=_longer(task.query_features, query),
        way=bucket.way,
    )


def _images(n: int) -> int:
    power = SMALLEST
    while power < n:
        power *= 2
    return max(SMALLEST, 3 * power // 4 if n <= 3 * power // 4 else power)


def _longer(values: Tensor, more: int, filled: int = 0) -> Tensor:
    return F.pad(values, (0, 0) * (values.ndim - 1) + (0, more), value=filled)
