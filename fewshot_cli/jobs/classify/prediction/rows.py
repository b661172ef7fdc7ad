"""A row for every image: its labels and probabilities, or why it can't be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.head.thresholds import above
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.model import Model
from fewshot_cli.images.sources.label_sets import PLUS
from fewshot_cli.jobs.features import PictureFeatures
from fewshot_cli.results import Prediction

TOP = 3  # classes that a row has, the likeliest and the runners-up
AT_ONCE = 64  # images whose rows come together


@dataclass(frozen=True)
class RowSettings:
    """What a row is to say besides the likeliest class: how many classes in all, and each one's probability."""

    top: int = TOP
    probabilities: bool = False


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

    @property
    def is_transductive(self) -> bool:
        """Whether it looks at all images before it answers about one."""
        return isinstance(self.model.adapted.head, TransductiveHead)

    def rows(self, names: Sequence[str], seen: Sequence[PictureFeatures]) -> list[Prediction]:
        """A row for each of the images of these names."""
        readable = [one.features[self.extractor] for one in seen if one.problem is None]
        features = torch.from_numpy(np.stack(readable)) if readable else torch.empty(0, self.model.adapted.head.dim)
        features = features.to(self.model.backbone.device)
        several = self.thresholds is not None
        probabilities = iter(
            self.model.answers(features).cpu().double().sigmoid() if several else probabilities_in(self.model, features)
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
