"""Label sets that hold the true label with a set probability: class-conditional conformal prediction.

Nonconformity is 1 - the probability of a label (LAC; Sadinle, Lei and Wasserman, 2019, arXiv:1609.00451). Held-out
answers take the place of a calibration set (cross-conformal prediction; Vovk, 2015, arXiv:1208.0806), so that no image
is spent on one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.trust.images_needed import images_for_sets


@dataclass(frozen=True)
class SetThresholds:
    """Up to which nonconformity a label is in the set, `(way,)`; sets then hold the true label with `coverage`.

    That is so in each class by itself, or only in all together.
    """

    coverage: float
    most: Tensor
    by_class: bool


def set_thresholds(held_out: Sequence[Sequence[float]], coverage: float) -> SetThresholds:
    """The thresholds from the nonconformity of held-out images by class, each of its true label.

    For each class by itself where every class has images enough (Mondrian), else for all classes together. Raises
    ValueError where all together are too few.
    """
    needed = images_for_sets(coverage)
    if all(len(scores) >= needed for scores in held_out):
        return SetThresholds(coverage, _tensor([_quantile(scores, coverage) for scores in held_out]), by_class=True)
    pooled = [score for scores in held_out for score in scores]
    if len(pooled) < needed:
        raise ValueError(f"sets that hold the label with {coverage:g} take {needed} held-out images, not {len(pooled)}")
    return SetThresholds(coverage, _tensor([_quantile(pooled, coverage)] * len(held_out)), by_class=False)


def _quantile(scores: Sequence[float], coverage: float) -> float:
    """The smallest score that at least `coverage` (n + 1) of the scores and a new one are not above."""
    return sorted(scores)[min(math.ceil(coverage * (len(scores) + 1) - 1e-9), len(scores)) - 1]


def _tensor(scores: Sequence[float]) -> Tensor:
    return torch.tensor(scores, dtype=torch.float64)


def label_sets(probabilities: Tensor, thresholds: SetThresholds) -> Tensor:
    """Which labels are in the set of each picture, `(n, way)` of bools; the likeliest always is."""
    inside = 1 - probabilities.double() <= thresholds.most.to(probabilities.device) + 1e-9
    return inside.scatter(1, probabilities.argmax(1, keepdim=True), True)
