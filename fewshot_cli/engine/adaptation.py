"""The words of the engine as types: what goes into a method and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Delta, plus
from fewshot_cli.engine.grafts import Graft
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.transductive import TransductiveHead

FittedHead: TypeAlias = Head | TransductiveHead


class Images(Protocol):
    """Pictures by index: a uint8 tensor `(n, 3, height, width)`, or something that decodes them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Support:
    """The labelled images of a task, and what the frozen backbone sees in them.

    `labels` is `(support,)` int64 in [0, way); `features` is `(support, dim)`, the frozen backbone's features of the
    plain images, computed once, so that a method that only fits a head never touches `images`. `classes` are the names
    of the classes, where they are known. Where the backbone reads texts, `texts` say of each class what it is, and
    `vectors` `(way, dim)` are the mean directions of these in the frozen text tower.
    """

    images: Images
    labels: Tensor
    features: Tensor
    way: int
    classes: tuple[str, ...] = ()
    texts: tuple[tuple[str, ...], ...] = ()
    vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def pictures(self) -> Tensor:
        """All pictures `(support, 3, height, width)` uint8."""
        return self.images[torch.arange(len(self))]

    def subset(self, indices: Tensor) -> "Support":
        """The task with only these images; the classes stay the same, so one may be left without an image."""
        images = Chosen(self.images, indices.cpu())  # pictures stay off the device until they are normalised
        return replace(self, images=images, labels=self.labels[indices], features=self.features[indices])

    def in_order(self) -> "Support":
        """The same task, sorted by label and content, so that the order of the files can't change what is learned."""
        # One number for each image. A single feature would not do, as after a ReLU many images have a zero there; nor
        # would the sum, which is the same for all images after a layer norm.
        weights = torch.arange(1, self.features.shape[1] + 1, device=self.features.device, dtype=torch.float64)
        by_content = torch.argsort(self.features.double() @ weights, stable=True)
        return self.subset(by_content[torch.argsort(self.labels[by_content], stable=True)])


@dataclass(frozen=True)
class Chosen:
    """Some of the images: `chosen` are their indices, on the CPU."""

    images: Images
    chosen: Tensor

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.images[self.chosen[indices.cpu()]]


@dataclass(frozen=True)
class JoinedImages:
    """The pictures of several data sets, one after another."""

    parts: tuple[Images, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, indices: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0][indices]
        ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)
        which = torch.searchsorted(ends, indices.cpu(), right=True)
        found = [(indices.cpu() - (ends[i] - len(part)))[which == i] for i, part in enumerate(self.parts)]
        pictures = torch.cat([part[rows] for part, rows in zip(self.parts, found, strict=True) if len(rows)])
        return pictures[torch.argsort(torch.argsort(which, stable=True))]


@dataclass(frozen=True)
class Moved:
    """How a method moves a backbone, and the head that it trained along, if it trained one."""

    delta: Delta
    head: Head | None = None
    graft: Graft | None = None


@dataclass(frozen=True)
class Adapted:
    """What is learned of a task: what to add to the backbone, what to hang into it, and the head on its features."""

    delta: Delta
    head: FittedHead
    graft: Graft | None = None

    @property
    def moves(self) -> bool:
        """Whether features are other than the frozen backbone's."""
        return bool(self.delta) or self.graft is not None

    def after(self, delta: Delta) -> "Adapted":
        """The same on a backbone that `delta` has not moved yet: it does that, too."""
        return replace(self, delta=plus(delta, self.delta)) if delta else self


Watch: TypeAlias = Callable[[int, int, float], None]
"""Hears of each training step: its number, how many there are, and the loss."""


def unwatched(step: int, steps: int, loss: float) -> None:
    """Nothing: the default of `Run.watch`."""


@dataclass(frozen=True)
class Run:
    """What a method gets besides the task: the seed of its random numbers, and whom to tell of each training step."""

    seed: int = 0
    watch: Watch = unwatched


@dataclass(frozen=True, eq=False)
class Task:
    """An episode as tensors: normalised images `(n, 3, height, width)` and labels `(n,)` int64 in [0, way)."""

    support_images: Tensor
    support_labels: Tensor
    query_images: Tensor
    query_labels: Tensor
    way: int
