"""From stored pictures to features: read once, decoded ahead, embedded in chunks, remembered by content."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Images
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.images.prefetch import decoders, in_order
from fewshot_cli.images.resize import Pixels
from fewshot_cli.jobs.pictures import Gallery, Pictures
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.storage.feature_cache import FeatureCache

KEEP_EVERY = (
    256  # pictures after which new features go to the cache, so that an interrupted run has not been for nothing
)
DECODE_AT_ONCE = 64  # pictures; at 224 pixels about 10 MB
MOST_WAITING = 4096  # pictures whose features are known, behind one whose are not


Features: TypeAlias = npt.NDArray[np.float32]
Look: TypeAlias = Callable[[Tensor], Tensor]
"""A way of seeing: from uint8 pictures `(n, 3, height, width)` to features `(n, dim)`."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What each look sees in one picture, by the look's name, and the hash of its content; or why there is nothing."""

    content: str = ""
    features: Mapping[str, Features] = field(default_factory=dict)
    problem: ImageError | None = None


@dataclass(frozen=True)
class Embedded:
    """Features `(n, dim)` of the readable pictures, their places among all, their hashes, what ails the others.

    `pictures` are the readable ones themselves, decoded when first looked at.
    """

    features: Tensor
    readable: list[int]
    contents: list[str]
    problems: dict[int, ImageError]
    pictures: Images = field(repr=False)


def embed(
    backbone: Backbone,
    stored: Sequence[Stored],
    cache: FeatureCache,
    progress: Progress,
    look: Look | None = None,
    name: str = "",
    decode: bool = False,
    what: str = "looking at images",
) -> Embedded:
    """What the backbone sees in the pictures, or the `look` of another model on it, where there is one.

    `name` is that model's: the digest of the delta file it comes from. A picture whose content the cache knows
    under this model is read, but neither decoded nor embedded; with `decode` all are decoded now, while progress is
    shown, since the pictures themselves are going to be asked for.
    """
    looks = {name: look or backbone.frozen_features}
    gallery = Gallery(backbone.preprocessing, cache.pictures)
    rows: list[Features] = []
    readable, contents, problems = [], [], {}
    seen = seen_by_each(backbone, stored, cache, progress, looks, gallery if decode else None, what)
    for place, one in enumerate(seen):
        if one.problem is not None:
            problems[place] = one.problem
        else:
            rows.append(one.features[name])
            readable.append(place)
            contents.append(one.content)
    gallery.keep()
    features = torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, backbone.dim)
    pictures = Pictures([stored[place] for place in readable], contents, gallery)
    return Embedded(features.to(backbone.device), readable, contents, problems, pictures)


def seen_by_each(
    backbone: Backbone,
    stored: Sequence[Stored],
    cache: FeatureCache,
    progress: Progress,
    looks: Mapping[str, Look],
    gallery: Gallery | None = None,
    what: str = "looking at images",
) -> Iterator[Seen]:
    """What each of the `looks` sees in each picture, in order, as it comes; "" names the look of the frozen backbone.

    A picture is read once, decoded if the cache lacks any look's features of its content, and every chunk of pictures
    is seen by all looks before the next is decoded; each sees only what the cache lacks of it. What is decoded joins
    the `gallery`, and with it so is what it lacks.
    """
    sight = _Sight(backbone, cache, looks, gallery)
    done = 0
    with progress.track(what) as advance:
        try:
            for some in sight.seen(_fetched(sight.fetched, stored, backbone)):
                done += len(some)
                advance(done, len(stored))
                yield from some
        finally:
            sight.keep()
            cache.close()


def model_key(backbone: Backbone, delta: str) -> str:
    """What decides a feature besides the image: the weights, decoder and transform, and the arithmetic."""
    facts = [
        backbone.name,
        backbone.fingerprint,
        asdict(backbone.preprocessing),
        delta + backbone.moved_fingerprint,
        backbone.embedding_device.type,
        torch.__version__,
        decoders(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Fetched:
    """One picture as a thread found it: the features that are known of it, and its pixels where they are needed."""

    content: str
    known: Mapping[str, Features]
    picture: Pixels | None
    problem: ImageError | None = None


def _fetched(fetch: Callable[[Stored], _Fetched], stored: Sequence[Stored], backbone: Backbone) -> Iterator[_Fetched]:
    """The pictures in order: read and decoded while a GPU computes, but in turns with a CPU.

    There, all threads would wait at the end of every layer for the one whose core is decoding.
    """
    if backbone.embedding_device.type != "cpu":
        yield from in_order(fetch, stored)
        return
    for start in range(0, len(stored), DECODE_AT_ONCE):
        yield from list(in_order(fetch, stored[start : start + DECODE_AT_ONCE]))


class _Sight:
    """The looks of one run: what they know already, and what they have seen since it was last kept."""

    def __init__(
        self, backbone: Backbone, cache: FeatureCache, looks: Mapping[str, Look], gallery: Gallery | None
    ) -> None:
        self.backbone, self.cache, self.looks, self.gallery = backbone, cache, looks, gallery
        self.models = {name: model_key(backbone, name) for name in looks}
        self.fresh: dict[str, dict[str, Features]] = {name: {} for name in looks}

    def fetched(self, stored: Stored) -> _Fetched:
        """What is known of the picture, decoded if that is not all that is wanted; called by threads."""
        content, known = "", {}
        try:
            read = stored.read()
            content, known = read.hash, self._known(read.hash)
            needed = len(known) < len(self.looks) or (self.gallery is not None and not self.gallery.has(content))
            return _Fetched(content, known, read.picture(self.backbone.preprocessing) if needed else None)
        except ImageError as error:
            # The traceback would keep the half-read picture alive for as long as the error is listed.
            return _Fetched(content, known, None, error.with_traceback(None))

    def seen(self, fetched: Iterator[_Fetched]) -> Iterator[list[Seen]]:
        """What the looks see, some pictures at a time."""
        waiting: list[_Fetched] = []
        chunk: dict[str, _Fetched] = {}
        for one in fetched:
            waiting.append(replace(one, picture=None))
            if one.picture is not None:
                if self.gallery is not None:
                    self.gallery.add(one.content, one.picture)
                if len(one.known) < len(self.looks):
                    chunk[one.content] = one
            if not chunk or len(chunk) >= self.backbone.chunk or len(waiting) == MOST_WAITING:
                yield self._looked(waiting, chunk)
                waiting, chunk = [], {}
        if waiting:
            yield self._looked(waiting, chunk)

    def keep(self) -> None:
        """Writes what is new to the cache."""
        for name, model in self.models.items():
            self.cache.save(model, self.fresh[name])
            self.fresh[name] = {}

    def _known(self, content: str) -> dict[str, Features]:
        known = {}
        for name, model in self.models.items():
            found = self.fresh[name].get(content)
            if found is None:
                found = self.cache.load(model, [content]).get(content)
            if found is not None:
                known[name] = found
        return known

    def _looked(self, waiting: Sequence[_Fetched], chunk: Mapping[str, _Fetched]) -> list[Seen]:
        """What all looks see in those that wait, of which the `chunk` has what some look has not seen."""
        new: dict[str, dict[str, Features]] = {}
        for name, look in self.looks.items():
            unseen = {content: one.picture for content, one in chunk.items() if name not in one.known}
            new[name] = _features(self.backbone, unseen, look) if unseen else {}
            self.fresh[name] |= new[name]
        seen = [
            Seen(problem=one.problem)
            if one.problem
            else Seen(
                one.content, {name: one.known[name] if name in one.known else new[name][one.content] for name in new}
            )
            for one in waiting
        ]
        if max(map(len, self.fresh.values())) >= KEEP_EVERY:
            self.keep()
        return seen


def _features(backbone: Backbone, pictures: Mapping[str, Pixels | None], look: Look) -> dict[str, Features]:
    batch = torch.from_numpy(np.stack(list(pictures.values())))  # type: ignore[arg-type]
    # The last bits of a feature depend on how many pictures go through at once. On a CPU it is always as many, so that
    # what the cache knows already changes no bit; a GPU promises none, and a picture on its own is only made two.
    missing = max(0, (backbone.chunk if backbone.embedding_device.type == "cpu" else 2) - len(batch))
    filled = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)])
    features = look(filled)[: len(batch)].cpu().numpy()
    return dict(zip(pictures, features, strict=True))
