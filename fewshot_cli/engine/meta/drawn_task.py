"""Practice tasks on their way to a device: drawn on the CPU, ahead of time, and sent in one copy."""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fewshot_cli.engine.data.crops import Views, viewed
from fewshot_cli.engine.device import pinned
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.params import Params

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

ALIGNED = 16  # bytes: where a tensor may begin in a buffer


@dataclass(frozen=True, eq=False)
class DrawnTask:
    """An episode on the CPU: `pictures` `(n, 3, height, width)` uint8, the support set first.

    `rows` `(n,)` are their places among a domain's features, `labels` `(n,)` are in [0, way). `texts` are what a text
    tower reads of each class, where one does.
    """

    pictures: Tensor
    rows: Tensor
    labels: Tensor
    support: int
    way: int
    views: Views | None = None
    texts: tuple[tuple[str, ...], ...] = ()

    def on(self, backbone: Backbone, features: Tensor) -> FeaturedTask:
        """The task on the backbone's device, of which `features` `(all, dim)` are; Python does not wait for a GPU."""
        tensors = {"pictures": self.pictures, "rows": self.rows, "labels": self.labels}
        there = sent_together(tensors | (vars(self.views) if self.views else {}), backbone.device)
        images = there["pictures"]
        if self.views:
            views = Views(**{name: there[name] for name in vars(self.views)})
            images = 255 * viewed(images.float() / 255, views)
        sizes = [self.support, len(self.labels) - self.support]
        support_images, query_images = torch.split(backbone.normalised(images), sizes)
        support_features, query_features = torch.split(features[there["rows"].to(features.device)], sizes)
        support_labels, query_labels = torch.split(there["labels"], sizes)
        return FeaturedTask(
            support_images=support_images,
            support_labels=support_labels,
            query_images=query_images,
            query_labels=query_labels,
            way=self.way,
            support_features=support_features,
            query_features=query_features,
            texts=self.texts,
        )


def sent_together(tensors: Params, device: torch.device) -> Params:
    """The tensors of the CPU on the device: for a GPU from one pinned buffer, in one copy.

    Python does not wait for it. torch's allocator uses the buffer's memory again only when the copy is done.
    """
    if device.type == "cpu":
        return tensors
    return unpacked(packed(tensors, pinned).to(device, non_blocking=True), tensors)


def packed(tensors: Params, room: Callable[[int], Tensor]) -> Tensor:
    """The bytes of the tensors, one after another, in a buffer that `room` gives for so many bytes."""
    places = _places(tensors)
    buffer = room(max(place.stop for place in places.values()))
    for name, values in tensors.items():
        buffer[places[name]].view(values.dtype).view(values.shape).copy_(values)
    return buffer


def unpacked(buffer: Tensor, like: Params) -> Params:
    """The tensors in a buffer that `packed` filled with tensors of such types and shapes: views of it."""
    places = _places(like)
    return {name: buffer[places[name]].view(values.dtype).view(values.shape) for name, values in like.items()}


def _places(tensors: Params) -> dict[str, slice]:
    places, start = {}, 0
    for name, values in tensors.items():
        end = start + values.numel() * values.element_size()
        places[name] = slice(start, end)
        start = -(-end // ALIGNED) * ALIGNED
    return places


class Prefetched(Generic[K, T]):
    """What `make` makes of keys, each while the one before it is in use, by a thread.

    `make` must depend on its key alone. Where nothing is to be gained, as on a CPU that would share its cores with the
    thread, it is called when its result is asked for.
    """

    def __init__(self, make: Callable[[K], T], with_thread: bool) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "next task") if with_thread else None
        self._next: tuple[K, Future[T]] | None = None

    def take(self, key: K, then: K | None) -> T:
        """What is made of the key; `then` is the key that is likely to be asked for next."""
        known, self._next = self._next, None
        found = known[1].result() if known and known[0] == key else self._make(key)
        if self._thread is not None and then is not None:
            self._next = then, self._thread.submit(self._make, then)
        return found
