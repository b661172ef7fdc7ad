"""From image files to features: read, decoded ahead, embedded in chunks, remembered by content."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

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
    contents, problems = _hashes(paths)
    model = model_key(backbone, delta)
    known = cache.load(model, sorted(set(contents.values())))
    new = {
        content: index for index, content in reversed(contents.items()) if content not in known
    }  # one file of each content
    fresh: dict[str, np.ndarray] = {}
    unreadable: dict[str, ImageError] = {}
    pictures = _decoded([paths[index] for index in new.values()], backbone)
    with progress.track("looking at images") as advance:
        for done, chunk in _embedded_in_chunks(backbone, zip(new, pictures, strict=True), unreadable, weights):
            fresh |= chunk
            advance(done, len(new))
            if len(fresh) >= KEEP_EVERY:
                cache.save(model, fresh)
                known |= fresh
                fresh = {}
    cache.save(model, fresh)
    known |= fresh
    problems |= {index: unreadable[content] for index, content in contents.items() if content in unreadable}
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


def _embedded_in_chunks(
    backbone: Backbone,
    pictures: Iterator[tuple[str, np.ndarray | ImageError]],
    unreadable: dict[str, ImageError],
    weights: Mapping[str, Tensor] | None,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """How many pictures are done, and the features of the last of them by content; the others join `unreadable`."""
    chunk: dict[str, np.ndarray] = {}
    done = 0
    for done, (content, picture) in enumerate(pictures, 1):
        if isinstance(picture, ImageError):
            unreadable[content] = picture
        else:
            chunk[content] = picture
        if len(chunk) == backbone.chunk:
            yield done, _features(backbone, chunk, weights)
            chunk = {}
    if chunk:
        yield done, _features(backbone, chunk, weights)


def _features(
    backbone: Backbone, pictures: dict[str, np.ndarray], weights: Mapping[str, Tensor] | None
) -> dict[str, np.ndarray]:
    batch = torch.from_numpy(np.stack(list(pictures.values())))
    # The last bits of a feature depend on how many pictures go through at once. On a CPU it is always as many, so that
    # what the cache knows already changes no bit; a GPU promises none, and a picture on its own is only made two.
    missing = max(0, (backbone.chunk if backbone.device.type == "cpu" else 2) - len(batch))
    filled = torch.cat([batch, batch[-1:].expand(missing, -1, -1, -1)])
    features = backbone.frozen_features(filled, weights)[: len(batch)].cpu().numpy()
    return dict(zip(pictures, features, strict=True))
