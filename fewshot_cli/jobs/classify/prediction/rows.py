"""A row for every image: its labels and probabilities, or why it can't be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.head.thresholds import above
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.model import Model
from fewshot_cli.images.sources.class_folders import UNKNOWN
from fewshot_cli.images.sources.label_sets import PLUS
from fewshot_cli.jobs.classify.prediction.inputs import NOTHING, Promises
from fewshot_cli.jobs.classify.prediction.rules import Rules
from fewshot_cli.jobs.features import PictureFeatures
from fewshot_cli.results import Prediction

TOP = 3  # classes that a row has, the likeliest and the runners-up
AT_ONCE = 64  # images whose rows come together


@dataclass(frozen=True)
class RowSettings:
    """What a row is to say besides the likeliest class: how many classes in all, and each one's probability.

    `promises` say what is refused as unknown, and how often a set of labels holds the true one.
    """

    top: int = TOP
    probabilities: bool = False
    promises: Promises = NOTHING


DEFAULT = RowSettings()


@dataclass(frozen=True)
class Predictor:
    """A model with the names of its classes and of its extractor; `file` is what its rows name, of several."""

    model: Model
    classes: Sequence[str]
    extractor: str
    file: Path | None = None
    how: RowSettings = DEFAULT
    thresholds: Sequence[float] | None = None
    rules: Rules | None = None

    @property
    def is_transductive(self) -> bool:
        """Whether it looks at all images before it answers about one."""
        return isinstance(self.model.adapted.head, TransductiveHead)

    @property
    def may_be_unknown(self) -> bool:
        """Whether it may say of a picture that it is of none of the classes."""
        return UNKNOWN in self.classes or (self.rules is not None and self.rules.refused_below is not None)

    def rows(self, names: Sequence[str], seen: Sequence[PictureFeatures]) -> list[Prediction]:
        """A row for each of the images of these names."""
        readable = [one.features[self.extractor] for one in seen if one.problem is None]
        features = torch.from_numpy(np.stack(readable)) if readable else torch.empty(0, self.model.adapted.head.dim)
        features = features.to(self.model.backbone.device)
        logits = self.model.answers(features)
        several = self.thresholds is not None
        probabilities = logits.cpu().double().sigmoid() if several else logits.softmax(1).cpu()
        rows = iter([self._answer(each) for each in probabilities] if several else self._ruled(logits, probabilities))
        file = None if self.file is None else str(self.file)
        return [
            Prediction(name, None, None, (), one.problem.reason, file)
            if one.problem
            else replace(next(rows), path=name, file=file)
            for name, one in zip(names, seen, strict=True)
        ]

    def _ruled(self, logits: Tensor, probabilities: Tensor) -> list[Prediction]:
        """An answer for each picture, unknown where it is refused, with its set of labels where one is promised."""
        rows = [self._answer(each) for each in probabilities]
        if self.rules is None:
            return rows
        refused, sets = self.rules.refused(logits).tolist(), self.rules.label_sets(probabilities)
        if sets is not None:
            rows = [replace(row, labels=labels) for row, labels in zip(rows, sets, strict=True)]
        if self.rules.refused_below is not None and UNKNOWN in self.classes:
            rows = [self._known(row, each) for row, each in zip(rows, probabilities, strict=True)]
        return [_refused(row) if no else row for row, no in zip(rows, refused, strict=True)]

    def _known(self, row: Prediction, probabilities: Tensor) -> Prediction:
        """The row with the likeliest class but `unknown`: what is refused is decided by the score alone."""
        real = probabilities.index_fill(0, torch.tensor([self.classes.index(UNKNOWN)]), 0.0)
        return replace(row, label=self.classes[int(real.argmax())], probability=round(float(real.max()), 6))

    def _answer(self, probabilities: Tensor) -> Prediction:
        best = probabilities.topk(min(self.how.top, len(self.classes)))
        shares = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        top = tuple((self.classes[i], round(p, 6)) for p, i in shares)
        each = [round(p, 6) for p in probabilities.tolist()] if self.how.probabilities else None
        named = None if each is None else dict(zip(self.classes, each, strict=True))
        if self.thresholds is not None:
            labels, sure = label_set(self.classes, probabilities, self.thresholds)
            return Prediction("", PLUS.join(labels), round(sure, 6), top, None, probabilities=named, labels=labels)
        return Prediction("", *top[0], top, None, probabilities=named)


def _refused(row: Prediction) -> Prediction:
    """The row of a picture that is like none of the classes: it has no probability, and its set no label."""
    return replace(row, label=UNKNOWN, probability=None, labels=None if row.labels is None else ())


def label_set(
    classes: Sequence[str], probabilities: Tensor, thresholds: Sequence[float]
) -> tuple[tuple[str, ...], float]:
    """The labels whose probability `(way,)` is above their threshold, and the probability that it is just these.

    That is as if labels were independent of each other.
    """
    given = above(probabilities, thresholds)
    labels = tuple(name for name, above in zip(classes, given.tolist(), strict=True) if above)
    return labels, float(torch.where(given, probabilities, 1 - probabilities).prod())


def answers(
    predictors: Sequence[Predictor], names: Sequence[str], seen: Iterator[PictureFeatures]
) -> Iterator[list[Prediction]]:
    """The rows of some images at a time; all at once where a head looks at all before it answers."""
    at_once = len(names) if any(predictor.is_transductive for predictor in predictors) else AT_ONCE
    for start in range(0, len(names), max(1, at_once)):
        some = names[start : start + at_once]
        shown = list(islice(seen, len(some)))
        of_each = [predictor.rows(some, shown) for predictor in predictors]
        yield [row for rows in zip(*of_each, strict=True) for row in rows]
    next(seen, None)  # so that it ends, and keeps what it has seen


def probabilities_in(model: Model, features: Tensor) -> Tensor:
    return model.answers(features).softmax(1).cpu()
