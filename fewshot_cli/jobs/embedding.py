"""From image files to features: read, decoded ahead, embedded in chunks, remembered by content."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.backbones import Backbone
from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError
from fewshot_cli.files.cache import FeatureCache
from fewshot_cli.images.decode import ImageError, content_hash
from fewshot_cli.images.loading import load_all
from fewshot_cli.jobs.progress import Progress

KEEP_EVERY = 256  # images after which new features go to the cache, so that an interrupted run has not been for nothing

DECODE_AT_ONCE = 64  # pictures; at 224 pixels about 10 MB


Look: TypeAlias = Callable[[Tensor], Tensor]
"""A way of seeing: from uint8 pictures `(n, 3, height, width)` to features `(n, dim)`."""


@dataclass(frozen=True)
class Embedded:
    """Features `(n, dim)` of the readable files, their places among all files, their hashes, what ails the others."""

    features: Tensor
    readable: list[int]
    contents: list[str]
    problems: dict[int, ImageError]


def embed(
    backbone: Backbone,
    paths: Sequence[Path],
    cache: FeatureCache,
    progress: Progress,
    weights: Mapping[str, Tensor] | None = None,
    delta: str = "",
) -> Embedded:
    """What the backbone, under `weights` where they differ from the base, sees in the files.

    `delta` names these weights: the digest of the delta file they come from. A file whose content the cache knows under
    this model is read, but neither decoded nor embedded.
    """
    looks = {delta: lambda pictures: backbone.frozen_features(pictures, weights)}
    return embed_each(backbone, paths, cache, progress, looks)[delta]


def embed_each(
    backbone: Backbone, paths: Sequence[Path], cache: FeatureCache, progress: Progress, looks: Mapping[str, Look]
) -> dict[str, Embedded]:
    """What each of the `looks` sees in the files, by the digest that names it ("" is the frozen backbone).

    A file is decoded once, if the cache lacks any look's features of its content, and every chunk of pictures is seen
    by all looks before the next is decoded; each sees only what the cache lacks of it.
    """
    contents, problems = _hashes(paths)
    models = {name: model_key(backbone, name) for name in looks}
    distinct = sorted(set(contents.values()))
    known = {name: cache.load(model, distinct) for name, model in models.items()}
    new = {
        content: index
        for index, content in reversed(contents.items())
        if any(content not in features for features in known.values())
    }  # one file of each content
    fresh: dict[str, dict[str, np.ndarray]] = {name: {} for name in looks}
    unreadable: dict[str, ImageError] = {}

    def keep() -> None:
        for name, model in models.items():
            cache.save(model, fresh[name])
            known[name] |= fresh[name]
            fresh[name] = {}

    pictures = _decoded([paths[index] for index in new.values()], backbone)
    with progress.track("looking at images") as advance:
        for done, chunk in _in_chunks(backbone.chunk, zip(new, pictures, strict=True), unreadable):
            for name, look in looks.items():
                unseen = {content: picture for content, picture in chunk.items() if content not in known[name]}
                fresh[name] |= _features(backbone, unseen, look) if unseen else {}
            advance(done, len(new))
            if max(map(len, fresh.values())) >= KEEP_EVERY:
                keep()
    keep()
    problems |= {index: unreadable[content] for index, content in contents.items() if content in unreadable}
    return {name: _embedded(backbone, contents, features, problems) for name, features in known.items()}


def _embedded(
    backbone: Backbone, contents: dict[int, str], known: dict[str, np.ndarray], problems: dict[int, ImageError]
) -> Embedded:
    readable = [index for index, content in contents.items() if content in known]
    rows = [known[contents[index]] for index in readable]
    features = torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, backbone.dim)
    return Embedded(features.to(backbone.device), readable, [contents[index] for index in readable], problems)


class Pictures:
    """The prepared pictures of some files, `(n, 3, height, width)` uint8, decoded when first looked at."""

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing) -> None:
        self.paths, self.preprocessing = paths, preprocessing

    @cached_property
    def _all(self) -> Tensor:
        pictures = list(load_all(self.paths, self.preprocessing))
        for path, picture in zip(self.paths, pictures, strict=True):
            if isinstance(picture, ImageError):
                raise FewshotError(
                    f"{path} could be read a moment ago and can't be any more: {picture.reason}.",
                    "Leave the folder as it is while fewshot is at work.",
                )
        return torch.from_numpy(np.stack(cast("list[np.ndarray]", pictures)))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self._all[indices.cpu()]


def _hashes(paths: Sequence[Path]) -> tuple[dict[int, str], dict[int, ImageError]]:
    contents: dict[int, str] = {}
    problems: dict[int, ImageError] = {}
    for index, path in enumerate(paths):
        try:
            contents[index] = content_hash(path)
        except ImageError as error:
            problems[index] = error
    return contents, problems


def model_key(backbone: Backbone, delta: str) -> str:
    """What decides a feature besides the image: the weights, the transform, and the arithmetic."""
    facts = [
        backbone.name,
        backbone.fingerprint,
        asdict(backbone.preprocessing),
        delta + backbone.moved_fingerprint,
        backbone.device.type,
        torch.__version__,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _decoded(paths: Sequence[Path], backbone: Backbone) -> Iterator[np.ndarray | ImageError]:
    """The pictures in order: decoded while a GPU computes, but in turns with a CPU.

    There, all threads would wait at the end of every layer for the one whose core is decoding.
    """
    if backbone.device.type != "cpu":
        yield from load_all(paths, backbone.preprocessing)
        return
    for start in range(0, len(paths), DECODE_AT_ONCE):
        yield from list(load_all(paths[start : start + DECODE_AT_ONCE], backbone.preprocessing))


def _in_chunks(
    size: int, pictures: Iterator[tuple[str, np.ndarray | ImageError]], unreadable: dict[str, ImageError]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """How many pictures are decoded, and the last `size` of them by content; those that can't be join `unreadable`."""
    chunk: dict[str, np.ndarray] = {}
    done = 0
    for done, (content, picture) in enumerate(pictures, 1):
        if isinstance(picture, ImageError):
            unreadable[content] = picture
        else:
            chunk[content] = picture
        if len(chunk) == size:
            yield done, chunk
            chunk = {}
    if chunk:
        yield done, chunk


def _features(backbone: Backbone, pictures: dict[str, np.ndarray], look: Look) -> dict[str, np.ndarray]:
    batch = torch.from_numpy(np.stack(list(pictures.values())))
    # The last bits of a feature depend on how many pictures go through at once. On a CPU it is always as many, so that
    # what the cache knows already changes no bit; a GPU promises none, and a picture on its own is only made two.
    missing = max(0, (backbone.chunk if backbone.device.type == "cpu" else 2) - len(batch))
    filled = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)])
    features = look(filled)[: len(batch)].cpu().numpy()
    return dict(zip(pictures, features, strict=True))
