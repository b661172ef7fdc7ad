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
FeatureExtractor: TypeAlias = Callable[[Tensor], Tensor]
"""From uint8 pictures `(n, 3, height, width)` to features `(n, dim)`."""


@dataclass(frozen=True, eq=False)
class PictureFeatures:
    """The features of one picture by the extractor's name, and the hash of its content; or why it can't be read."""

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
    extractor: FeatureExtractor | None = None,
    name: str = "",
    decode: bool = False,
    what: str = "looking at images",
) -> Embedded:
    """The backbone's features of the pictures, or those of the `extractor` of another model on it.

    `name` is that model's: the digest of the delta file it comes from. A picture whose content the cache knows
    under this model is read, but neither decoded nor embedded; with `decode` all are decoded now, while progress is
    shown, since the pictures themselves are going to be asked for.
    """
    extractors = {name: extractor or backbone.frozen_features}
    gallery = Gallery(backbone.preprocessing, cache.pictures)
    rows: list[Features] = []
    readable, contents, problems = [], [], {}
    seen = features_by_each(backbone, stored, cache, progress, extractors, gallery if decode else None, what)
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


def features_by_each(
    backbone: Backbone,
    stored: Sequence[Stored],
    cache: FeatureCache,
    progress: Progress,
    extractors: Mapping[str, FeatureExtractor],
    gallery: Gallery | None = None,
    what: str = "looking at images",
) -> Iterator[PictureFeatures]:
    """The features of each picture by each of the `extractors`, in order, as they come; "" names the frozen backbone's.

    A picture is read once, and decoded if the cache lacks any features of its content. Every chunk of pictures goes
    through all extractors before the next is decoded, and through each only what the cache lacks. What is decoded
    joins the `gallery`; with a gallery, what that lacks is decoded, too.
    """
    extraction = _Extraction(backbone, cache, extractors, gallery)
    done = 0
    with progress.track(what) as advance:
        try:
            for some in extraction.seen(_fetched(extraction.fetched, stored, backbone)):
                done += len(some)
                advance(done, len(stored))
                yield from some
        finally:
            extraction.keep()
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


class _Extraction:
    """The extractors of one run, what the cache has of each, and features that were not written to it yet."""

    def __init__(
        self,
        backbone: Backbone,
        cache: FeatureCache,
        extractors: Mapping[str, FeatureExtractor],
        gallery: Gallery | None,
    ) -> None:
        self.backbone, self.cache, self.extractors, self.gallery = backbone, cache, extractors, gallery
        self.models = {name: model_key(backbone, name) for name in extractors}
        self.fresh: dict[str, dict[str, Features]] = {name: {} for name in extractors}

    def fetched(self, stored: Stored) -> _Fetched:
        """What is known of the picture, decoded if that is not all that is wanted; called by threads."""
        content, known = "", {}
        try:
            read = stored.read()
            content, known = read.hash, self._known(read.hash)
            needed = len(known) < len(self.extractors) or (self.gallery is not None and not self.gallery.has(content))
            return _Fetched(content, known, read.picture(self.backbone.preprocessing) if needed else None)
        except ImageError as error:
            # The traceback would keep the half-read picture alive for as long as the error is listed.
            return _Fetched(content, known, None, error.with_traceback(None))

    def seen(self, fetched: Iterator[_Fetched]) -> Iterator[list[PictureFeatures]]:
        """The features by all extractors, some pictures at a time."""
        waiting: list[_Fetched] = []
        chunk: dict[str, _Fetched] = {}
        for one in fetched:
            waiting.append(replace(one, picture=None))
            if one.picture is not None:
                if self.gallery is not None:
                    self.gallery.add(one.content, one.picture)
                if len(one.known) < len(self.extractors):
                    chunk[one.content] = one
            if not chunk or len(chunk) >= self.backbone.chunk or len(waiting) == MOST_WAITING:
                yield self._extracted(waiting, chunk)
                waiting, chunk = [], {}
        if waiting:
            yield self._extracted(waiting, chunk)

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

    def _extracted(self, waiting: Sequence[_Fetched], chunk: Mapping[str, _Fetched]) -> list[PictureFeatures]:
        """The features of the pictures that wait; the `chunk` has those of which some extractor lacks them."""
        new: dict[str, dict[str, Features]] = {}
        for name, extractor in self.extractors.items():
            unseen = {content: one.picture for content, one in chunk.items() if name not in one.known}
            new[name] = _features(self.backbone, unseen, extractor) if unseen else {}
            self.fresh[name] |= new[name]
        seen = [
            PictureFeatures(problem=one.problem)
            if one.problem
            else PictureFeatures(
                one.content, {name: one.known[name] if name in one.known else new[name][one.content] for name in new}
            )
            for one in waiting
        ]
        if max(map(len, self.fresh.values())) >= KEEP_EVERY:
            self.keep()
        return seen


def _features(
    backbone: Backbone, pictures: Mapping[str, Pixels | None], extractor: FeatureExtractor
) -> dict[str, Features]:
    batch = torch.from_numpy(np.stack(list(pictures.values())))  # type: ignore[arg-type]
    # The last bits of a feature depend on how many pictures go through at once. On a CPU it is always as many, so that
    # what the cache knows already changes no bit; a GPU promises none, and a picture on its own is only made two.
    missing = max(0, (backbone.chunk if backbone.embedding_device.type == "cpu" else 2) - len(batch))
    filled = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)])
    features = extractor(filled)[: len(batch)].cpu().numpy()
    return dict(zip(pictures, features, strict=True))
