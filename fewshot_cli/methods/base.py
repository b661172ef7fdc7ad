"""The protocol that every method keeps."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

from fewshot_cli.engine.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.backbones import Backbone
    from fewshot_cli.engine.heads import Head
    from fewshot_cli.engine.moments import Moments
    from fewshot_cli.engine.types import Adapted, Run, Support


TASKS_AT_ONCE = 50  # of 25 images and 75 queries of 384 features: 8 MB


class Learner(Protocol):
    """Whatever learns a task on a backbone: a method, or one that begins from a bank."""

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        """What to add to the backbone and the head to put on it, learned from the support set."""


class Method(Settings):
    """One algorithm: its fields are its settings and the section `method` of a recipe; it holds no state.

    `adapt` is a pure function: the same backbone, support set and seed give the same answer, and none of them changes.
    """

    name: str

    @abstractmethod
    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        """What to add to the backbone and the head to put on it, learned from the support set."""


class HeadMethod(Method):
    """A method that leaves the backbone as it is: only the support set's features are ever looked at."""

    @abstractmethod
    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        """The head fitted to features `(support, dim)` and labels `(support,)`."""

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        from fewshot_cli.engine.types import Adapted

        return Adapted(delta={}, head=self.head(support.features, support.labels, support.way))


class ClosedFormMethod(HeadMethod):
    """A head that is a formula: of many tasks at once, and with leave-one-out answers that follow from one fit."""

    @abstractmethod
    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        """The heads fitted to features `(..., support, dim)` and labels `(..., support)`; leading axes are tasks."""

    @abstractmethod
    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        """Logits `(support, way)` of one task: row i is what the head fitted without image i says of image i, exactly.

        A class whose only image is left out has no evidence left: its logit in that row is -inf.
        """


class GrowingMethod(ClosedFormMethod):
    """A closed form of sums over the images, so that images and classes can be added without looking at old ones."""

    @abstractmethod
    def grown_head(self, moments: Moments) -> Head:
        """The head that `head` fits, up to rounding, to all images that were ever added to the moments; float32."""


def logits_of_tasks(
    method: ClosedFormMethod, features: Tensor, support: Tensor, labels: Tensor, queries: Tensor, way: int
) -> Tensor:
    """Logits `(tasks, queries, way)`: what the method answers in many tasks of one shape on features `(n, dim)`.

    `support` `(tasks, support)` and `queries` `(tasks, queries)` are rows of the features, `labels` `(tasks, support)`
    the classes of the support set. The logits of the task at a place have the same bits whatever the other tasks are.
    """
    import torch

    logits = []
    for start in range(0, len(support), TASKS_AT_ONCE):
        # The last bits may depend on how many tasks are computed at once: the last chunk is filled with its last task.
        tasks = torch.arange(start, start + TASKS_AT_ONCE, device=support.device).clamp(max=len(support) - 1)
        head = method.head(_rows(features, support[tasks]), labels[tasks], way)
        logits.append(head.logits(_rows(features, queries[tasks])))
    return torch.cat(logits)[: len(support)]


def _rows(features: Tensor, indices: Tensor) -> Tensor:
    """features[indices], three times as fast."""
    return features.index_select(0, indices.flatten()).view(*indices.shape, -1)
