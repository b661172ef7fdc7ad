"""Intervals, calibration and other figures about answers."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Z95 = 1.959963984540054  # the standard normal's 97.5 % point


@dataclass(frozen=True)
class Interval:
    """A share in [0, 1] with its 95 % interval, from `n` answers."""

    mean: float
    low: float
    high: float
    n: int


def wilson(right: int, n: int) -> Interval:
    """The share `right / n` with Wilson's 95 % interval (1927), which holds for few answers and shares near 0 and 1."""
    share = right / n
    spread = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    low, high = ((share + Z95**2 / (2 * n) + sign * spread) / (1 + Z95**2 / n) for sign in (-1, 1))
    return Interval(share, max(0.0, low), min(1.0, high), n)


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error in [0, 1] of `(n, way)` probabilities (Guo et al., 2017, arXiv:1706.04599).

    The mean, over `bins` equal bins of the top probability weighted by their size, of |share right - mean probability|.
    """
    confidence, answer = probabilities.max(1)
    right = (answer == labels).to(confidence)
    which = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = torch.zeros(bins).to(confidence).index_add_(0, which, right - confidence)
    return float(gap.abs().sum() / len(labels))


def confusion_matrix(answers: Tensor, labels: Tensor, way: int) -> Tensor:
    """Counts `(way, way)`: row the true class, column the answer."""
    return torch.bincount(labels * way + answers, minlength=way * way).reshape(way, way)


def best_sharpening(logits: Tensor, labels: Tensor) -> float:
    """The factor on finite held-out logits `(n, way)` with the least cross-entropy: 1 / temperature (Guo et al., 2017).

    Targets are Platt's (1999), (n + 1) / (n + 2) for the true class, since a factor fitted to a few answers that are
    all right would otherwise be infinite.
    """
    n, way = logits.shape
    factors = torch.logspace(-2, 3, 501).to(logits)
    spread = way / ((way - 1) * (n + 2))  # torch gives the true class its part of what is spread
    losses = [F.cross_entropy(factor * logits, labels, label_smoothing=spread) for factor in factors]
    return float(factors[torch.stack(losses).argmin()])
