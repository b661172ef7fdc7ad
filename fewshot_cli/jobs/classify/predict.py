"""A label and a probability for every image given, by one classifier or by several on one base."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.delta_swap import Arena, Prepared
from fewshot_cli.engine.model.model import Model
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import DeltaFile
from fewshot_cli.images.image_ref import Stored, StoredFile
from fewshot_cli.images.sources.class_folders import find_images
from fewshot_cli.images.sources.label_sets import PLUS
from fewshot_cli.jobs.classify.sorting import Sorting
from fewshot_cli.jobs.context import Means
from fewshot_cli.jobs.features import Embedded, Look, Seen, embed, seen_by_each
from fewshot_cli.jobs.models.adapted import adapted_of
from fewshot_cli.jobs.models.backbones import load_base
from fewshot_cli.jobs.models.checks import check_base
from fewshot_cli.jobs.models.classifiers import Loaded, read_on_one_base
from fewshot_cli.jobs.run_record import seconds_since
from fewshot_cli.results import AskedFile, Prediction, PredictResult

TOP = 3  # classes that a row has, the likeliest and the runners-up
AT_ONCE = 64  # images whose rows come together


@dataclass(frozen=True)
class Asking:
    """What a row is to say besides the likeliest class: how many classes in all, and each one's probability."""

    top: int = TOP
    probabilities: bool = False


DEFAULT = Asking()


Write: TypeAlias = Callable[[Sequence[Prediction]], None]


def predict(
    files: Sequence[Path],
    inputs: Sequence[Path],
    means: Means,
    write: Write | None = None,
    how: Asking = DEFAULT,
    more: Iterable[Sequence[Path]] = (),
    sorting: Sorting | None = None,
) -> PredictResult:
    """One row for every image in `inputs`, in their order; a file that can't be read is a row with its error.

    Of several delta files, which are on one base, each gives its row, which names it, in the order of `files`. With
    `write` the rows go there as they come, some at a time, and are not kept: the result only says how many there were.
    Then come the rows of `more` images, as these come, until there are none or somebody interrupts, which ends it well.
    With `sorting` every image is copied into the folder of its answer.
    """
    start = time.perf_counter()
    if sorting and len(files) > 1:
        raise FewshotError("Several classifiers give several answers to sort by.", "Give --sort-into with one file.")
    panel = Panel.of(files, means, how)
    if sorting:
        panel.check_one_label(files)
    kept: list[Prediction] = []
    images = unread = 0

    def take(paths: Sequence[Path]) -> None:
        nonlocal images, unread
        for rows in panel.rows(paths, means):
            bad = sum(row.error is not None for row in rows) // len(files)
            images, unread = images + len(rows) // len(files) - bad, unread + bad
            (write or kept.extend)(sorting.rows(rows) if sorting else rows)

    if more:
        panel.check_can_go_on()
    take(find_images(inputs))
    if more:
        with suppress(KeyboardInterrupt):
            for paths in more:
                take(paths)
    asked = tuple(AskedFile(str(path), file.header.classes) for path, file in zip(files, panel.files, strict=True))
    several = len(files) > 1
    return PredictResult(
        file=None if several else str(files[0]),
        backbone=panel.backbone.name,
        classes=tuple(sorted({name for file in asked for name in file.classes})) if several else asked[0].classes,
        images=images,
        unread=unread,
        transductive=panel.is_transductive,
        predictions=tuple(kept) if write is None else None,
        files=asked if several else None,
        sorted_into=sorting.done if sorting else None,
        seconds=seconds_since(start),
    )


def answered(loaded: Loaded, file: str, stored: Sequence[Stored], means: Means) -> PredictResult:
    """One row for every picture, by a classifier that is loaded already and that the result calls `file`."""
    start = time.perf_counter()
    name = _look_of(loaded.file)
    answerer = Answerer(loaded.model, loaded.classes, name)
    seen = seen_by_each(loaded.backbone, stored, means.cache, means.progress, {name: loaded.model.features})
    rows = [row for some in answers([answerer], [one.name for one in stored], seen) for row in some]
    unread = sum(row.error is not None for row in rows)
    return PredictResult(
        file=file,
        backbone=loaded.backbone.name,
        classes=loaded.classes,
        images=len(rows) - unread,
        unread=unread,
        transductive=answerer.is_transductive,
        predictions=tuple(rows),
        seconds=seconds_since(start),
    )


@dataclass(frozen=True)
class Panel:
    """Classifiers on one base that are ready to answer: each with its words, and what each looks through."""

    files: Sequence[DeltaFile]
    backbone: Backbone
    looks: Mapping[str, Look]
    answerers: Sequence[Answerer]

    @classmethod
    def of(cls, paths: Sequence[Path], means: Means, how: Asking) -> Panel:
        """Those in the delta files. Raises FewshotError unless all are on one base, which is at hand."""
        files = read_on_one_base(paths, several_labels=True)
        backbone = load_base(files[0], means.source, means.device)
        models = []
        for path, file in zip(paths, files, strict=True):
            check_base(file, backbone, path)
            models.append(Model(backbone, adapted_of(file, path)))
        names = [_look_of(file) for file in files]
        answerers = [
            Answerer(model, file.header.classes, name, path if len(paths) > 1 else None, how, file.thresholds)
            for path, file, model, name in zip(paths, files, models, names, strict=True)
        ]
        return cls(files, backbone, swapping_looks(backbone, dict(zip(names, models, strict=True))), answerers)

    @property
    def is_transductive(self) -> bool:
        """Whether an answer depends on what else is asked."""
        return any(answerer.is_transductive for answerer in self.answerers)

    def check_one_label(self, paths: Sequence[Path]) -> None:
        """Raises FewshotError where images have several labels, so that none can be copied into one folder."""
        for path, file in zip(paths, self.files, strict=True):
            if file.thresholds is not None:
                raise FewshotError(
                    f"{path} gives an image several labels, so it can't be sorted into one folder.",
                    "Leave --sort-into out; --csv has the labels.",
                )

    def check_can_go_on(self) -> None:
        """Raises FewshotError where no image can be answered before all are there."""
        if self.is_transductive:
            raise FewshotError(
                "This classifier's head is transductive: it answers about all images at once, so it can't watch.",
                "Watch with a classifier of another recipe, as ridge.",
            )

    def rows(self, paths: Sequence[Path], means: Means) -> Iterator[list[Prediction]]:
        """The rows of the images, some at a time."""
        stored = [StoredFile(path) for path in paths]
        seen = seen_by_each(self.backbone, stored, means.cache, means.progress, self.looks)
        return answers(self.answerers, [str(path) for path in paths], seen)


def swapping_looks(backbone: Backbone, models: Mapping[str, Model]) -> dict[str, Look]:
    """The features that each model sees, by its name; those that leave the backbone as it is share the name "".

    There is one set of weights, which moves into an arena; each look swaps its delta in before it looks. A file with a
    graft has a module of its own, which shares these weights: it takes every delta off before it looks.
    """
    grafted = {name: model for name, model in models.items() if model.adapted.graft}
    deltas = {name: model.adapted.delta for name, model in models.items() if not model.adapted.graft}
    if not any(deltas.values()):
        return dict.fromkeys(deltas, backbone.frozen_features) | {n: m.features for n, m in grafted.items()}
    for model in grafted.values():
        assert model.moved  # its weights follow from the base's, as they are before anything is swapped in
    arena = Arena(backbone.module)
    ready = {name: arena.prepared(delta) for name, delta in deltas.items()}

    def look_through(model: Model) -> Look:
        def look(pictures: Tensor) -> Tensor:
            arena.restore()
            return model.features(pictures)

        return look

    def look_with(prepared: Prepared) -> Look:
        def look(pictures: Tensor) -> Tensor:
            arena.apply(prepared)
            return backbone.frozen_features(pictures)

        return look

    looks = {name: look_with(prepared) for name, prepared in ready.items()}
    return looks | {name: look_through(model) for name, model in grafted.items()}


def _look_of(file: DeltaFile) -> str:
    return file.digest if file.moves else ""


def probabilities_of(loaded: Loaded, stored: Sequence[Stored], means: Means) -> tuple[Tensor, Embedded]:
    """Probabilities `(n, way)` of the readable pictures, on the CPU, and which of them these are."""
    embedded = seen_through(loaded, stored, means)
    return _probabilities(loaded.model, embedded.features), embedded


def seen_through(loaded: Loaded, stored: Sequence[Stored], means: Means) -> Embedded:
    """What the model sees in the pictures."""
    name = _look_of(loaded.file)
    return embed(loaded.backbone, stored, means.cache, means.progress, loaded.model.features, name)


def _probabilities(model: Model, features: Tensor) -> Tensor:
    return model.answers(features).softmax(1).cpu()


@dataclass(frozen=True)
class Answerer:
    """A model with the names of its classes and of its look; `file` is what its rows name, of several."""

    model: Model
    classes: Sequence[str]
    look: str
    file: Path | None = None
    how: Asking = DEFAULT
    thresholds: Sequence[float] | None = None

    @property
    def is_transductive(self) -> bool:
        """Whether it looks at all images before it answers about one."""
        return isinstance(self.model.adapted.head, TransductiveHead)

    def rows(self, names: Sequence[str], seen: Sequence[Seen]) -> list[Prediction]:
        """A row for each of the images of these names."""
        readable = [one.features[self.look] for one in seen if one.problem is None]
        features = torch.from_numpy(np.stack(readable)) if readable else torch.empty(0, self.model.adapted.head.dim)
        features = features.to(self.model.backbone.device)
        several = self.thresholds is not None
        probabilities = iter(
            self.model.answers(features).sigmoid().cpu() if several else _probabilities(self.model, features)
        )
        file = None if self.file is None else str(self.file)
        return [
            Prediction(name, None, None, (), one.problem.reason, file)
            if one.problem
            else self._answer(name, next(probabilities), file)
            for name, one in zip(names, seen, strict=True)
        ]

    def _answer(self, name: str, probabilities: Tensor, file: str | None) -> Prediction:
        best = probabilities.topk(min(self.how.top, len(self.classes)))
        shares = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        top = tuple((self.classes[i], round(p, 6)) for p, i in shares)
        each = [round(p, 6) for p in probabilities.tolist()] if self.how.probabilities else None
        named = None if each is None else dict(zip(self.classes, each, strict=True))
        if self.thresholds is not None:
            labels, sure = label_set(self.classes, probabilities, self.thresholds)
            return Prediction(name, PLUS.join(labels), round(sure, 6), top, None, file, named, labels=labels)
        return Prediction(name, *top[0], top, None, file, named)


def label_set(
    classes: Sequence[str], probabilities: Tensor, thresholds: Sequence[float]
) -> tuple[tuple[str, ...], float]:
    """The labels whose probability `(way,)` is above their threshold, and the probability that it is just these.

    That is as if labels were independent of each other.
    """
    given = probabilities.double() > torch.tensor(thresholds, dtype=torch.float64)
    labels = tuple(name for name, above in zip(classes, given.tolist(), strict=True) if above)
    return labels, float(torch.where(given, probabilities, 1 - probabilities).prod())


def answers(answerers: Sequence[Answerer], names: Sequence[str], seen: Iterator[Seen]) -> Iterator[list[Prediction]]:
    """The rows of some images at a time; all at once where a head looks at all before it answers."""
    at_once = len(names) if any(answerer.is_transductive for answerer in answerers) else AT_ONCE
    for start in range(0, len(names), max(1, at_once)):
        some = names[start : start + at_once]
        shown = list(islice(seen, len(some)))
        of_each = [answerer.rows(some, shown) for answerer in answerers]
        yield [row for rows in zip(*of_each, strict=True) for row in rows]
    next(seen, None)  # so that it ends, and keeps what it has seen
