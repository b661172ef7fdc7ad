"""A data set as a backbone sees it: labels, features, and the pictures for those who ask."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from fewshot_cli.engine.backbones import Backbone
from fewshot_cli.engine.types import Images
from fewshot_cli.errors import FewshotError
from fewshot_cli.files.cache import FeatureCache, NoCache, cache_folder
from fewshot_cli.files.pixels import DecodedPictures, decoded
from fewshot_cli.images.datasets import Dataset
from fewshot_cli.images.decode import ImageError, Pixels
from fewshot_cli.images.loading import in_order
from fewshot_cli.jobs.copies import copies
from fewshot_cli.jobs.embedding import model_key
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.record import data_hash

AT_ONCE = 64  # pictures from the decoded cache to the backbone


@dataclass(frozen=True)
class Data:
    """The readable pictures of a data set: class and content of each, and what the frozen backbone sees in it.

    `labels` is `(n,)` in [0, classes); `features` is `(n, dim)` on the backbone's device; `images` are decoded when
    first looked at, and only then.
    """

    dataset: Dataset
    labels: npt.NDArray[np.int64]
    features: Tensor = field(repr=False)
    images: Images = field(repr=False)
    skipped: list[dict[str, str]]
    hash: str
    names: tuple[str, ...] = ()
    """Of each picture, where it was found."""
    contents: tuple[str, ...] = ()
    """The hash of each picture's content."""


def load_data(dataset: Dataset, backbone: Backbone, cache: FeatureCache, pictures: bool, progress: Progress) -> Data:
    """The data set under this backbone; with `pictures` they are decoded now, while progress can be shown.

    Features come from the cache or are computed once, whatever the number of processes that ask at the same time.
    Raises FewshotError where a class has no readable picture.
    """
    with progress.track(f"{dataset.name}: reading") as advance:
        contents, problems = _contents(dataset, advance)
    rows = list(contents)
    known = list(contents.values())
    found = _Decoded(dataset, rows, known, backbone, progress, keep=not isinstance(cache, NoCache))
    with _one_at_a_time(cache, known):
        features = _features(backbone, cache, known, found, progress)
    if pictures or len(features) < len(set(known)):
        problems |= {rows[row]: reason for row, reason in found.pictures.unreadable.items()}
    used = [place for place, content in enumerate(known) if content in features]
    used, again = _distinct(dataset, rows, known, used)
    problems |= again
    labels = np.array([dataset.samples[rows[place]].label for place in used], dtype=np.int64)
    _check_classes(dataset, labels, problems)
    stacked = torch.from_numpy(np.stack([features[known[place]] for place in used]))
    names = [dataset.classes[label] for label in labels]
    return Data(
        dataset,
        labels,
        stacked.to(backbone.device),
        _Rows(found, np.array(used)),
        [{"path": dataset.samples[row].stored.name, "reason": reason} for row, reason in sorted(problems.items())],
        data_hash(zip(names, (known[place] for place in used), strict=True)),
        tuple(dataset.samples[rows[place]].stored.name for place in used),
        tuple(known[place] for place in used),
    )


def _distinct(
    dataset: Dataset, rows: list[int], contents: list[str], used: list[int]
) -> tuple[list[int], dict[int, str]]:
    """The places to use, one for each content; and why the others are left out, by their rows."""
    samples = [dataset.samples[rows[place]] for place in used]
    left = copies(
        [sample.label for sample in samples],
        [contents[place] for place in used],
        [sample.stored.name for sample in samples],
        dataset.classes,
    )
    return [place for i, place in enumerate(used) if i not in left], {rows[used[i]]: why for i, why in left.items()}


class _Decoded:
    """The decoded pictures of some rows of a data set, made or opened when first asked for."""

    def __init__(
        self,
        dataset: Dataset,
        rows: list[int],
        contents: list[str],
        backbone: Backbone,
        progress: Progress,
        keep: bool,
    ) -> None:
        self.dataset, self.rows, self.contents, self.keep = dataset, rows, contents, keep
        self.preprocessing, self.progress = backbone.preprocessing, progress

    @cached_property
    def pictures(self) -> DecodedPictures:
        with self.progress.track(f"{self.dataset.name}: decoding") as advance:
            return decoded(self.contents, self.preprocessing, self._load, advance, self.keep)

    def _load(self) -> Iterator[Pixels | ImageError]:
        def load(row: int) -> Pixels | ImageError:
            try:
                return self.dataset.samples[row].stored.load(self.preprocessing)
            except ImageError as error:
                return error.with_traceback(None)

        yield from in_order(load, self.rows)


@dataclass(frozen=True)
class _Rows:
    """Some of the decoded pictures, by index."""

    found: _Decoded
    rows: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self.found.pictures.pixels[self.rows[indices.cpu().numpy()]])


def _contents(dataset: Dataset, advance: Callable[[int, int], None]) -> tuple[dict[int, str], dict[int, str]]:
    """The content hash of every sample that can be read, and what ails the others, by their places."""

    def content(row: int) -> str | ImageError:
        try:
            return dataset.samples[row].stored.content_hash()
        except ImageError as error:
            return error.with_traceback(None)

    contents, problems = {}, {}
    rows = range(len(dataset.samples))
    for row, found in zip(rows, in_order(content, rows), strict=True):
        if isinstance(found, ImageError):
            problems[row] = found.reason
        else:
            contents[row] = found
        if row % 100 == 99:
            advance(row + 1, len(rows))
    return contents, problems


def _features(
    backbone: Backbone, cache: FeatureCache, contents: Sequence[str], found: _Decoded, progress: Progress
) -> dict[str, npt.NDArray[np.float32]]:
    """The features of every readable content: known ones from the cache, the others computed and kept."""
    model = model_key(backbone, "")
    known = cache.load(model, sorted(set(contents)))
    first = {content: row for row, content in reversed(list(enumerate(contents))) if content not in known}
    if not first:
        return known
    pictures = found.pictures
    new = sorted(row for row in first.values() if row not in pictures.unreadable)
    with progress.track(f"{found.dataset.name}: looking at images") as advance:
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            # filled up, so that what is known already changes no bit: the last bits depend on how many go together
            filled = some + some[-1:] * (-len(some) % backbone.chunk)
            features = backbone.frozen_features(torch.from_numpy(pictures.pixels[filled]))[: len(some)].cpu().numpy()
            fresh = {contents[row]: row_features for row, row_features in zip(some, features, strict=True)}
            cache.save(model, fresh)
            known |= fresh
            advance(start + len(some), len(new))
    return known


def _one_at_a_time(cache: FeatureCache, contents: Sequence[str]) -> contextlib.AbstractContextManager[object]:
    """Held by the one process that computes what others are waiting to read from the cache."""
    if isinstance(cache, NoCache):
        return contextlib.nullcontext()
    name = hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
    try:
        locks = cache_folder() / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{name}.lock").acquire()
    except (OSError, NotImplementedError):  # a cache without locks, or that can't be written, is no reason to fail
        return contextlib.nullcontext()


def _check_classes(dataset: Dataset, labels: npt.NDArray[np.int64], problems: dict[int, str]) -> None:
    left = set(labels.tolist())
    for label, name in enumerate(dataset.classes):
        if label not in left:
            samples = [row for row, sample in enumerate(dataset.samples) if sample.label == label]
            which = f"{dataset.samples[samples[0]].stored.name}: {problems[samples[0]]}" if samples else "it is empty"
            raise FewshotError(
                f"{dataset.name}: no image of the class '{name}' can be read ({which}).",
                f"Add readable images, or remove the class; `fewshot doctor {dataset.root}` lists every problem.",
            )
