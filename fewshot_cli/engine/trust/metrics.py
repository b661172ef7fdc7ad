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


def harmonic_mean(first: float, second: float) -> float:
    """2 a b / (a + b) of two shares, near the lower one; 0 where both are."""
    return 2 * first * second / (first + second) if first + second else 0.0


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """The expected calibration error in [0, 1] of one task, `(n, way)` probabilities: see `calibration_errors`."""
    return float(calibration_errors(probabilities, labels, bins))


def calibration_errors(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration errors in [0, 1] (Guo et al., 2017, arXiv:1706.04599), a number for each task.

    The mean, over `bins` equal bins of the top probability weighted by their size, of |share right - mean probability|.
    Probabilities are `(..., n, way)`, labels `(..., n)`, errors `(...)`.
    """
    confidence, answers = probabilities.max(-1)
    right = (answers == labels).to(confidence)
    which = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gaps = (F.one_hot(which, bins) * (right - confidence).unsqueeze(-1)).sum(-2)
    return gaps.abs().sum(-1) / labels.shape[-1]


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over queries of -ln(probability of the true class), in nats: `(..., n, way)` logits to `(...)`.

    A proper score: least, in expectation, for the true probabilities (Gneiting and Raftery, 2007).
    """
    return -log_likelihoods(logits, labels).mean(-1)


def log_likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """ln(probability of the true class) of each query, in nats: `(..., n, way)` logits to `(..., n)`."""
    return logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def balanced_accuracy(answers: Tensor, labels: Tensor, way: int) -> Tensor:
    """The mean over the classes asked about of the share that is right (Brodersen et al., 2010), in [0, 1].

    Answers and labels are `(..., n)` in [0, `way`), the result `(...)`.
    """
    asked = F.one_hot(labels, way).double()
    counts = asked.sum(-2)
    right = (asked * (answers == labels).unsqueeze(-1)).sum(-2)
    return (right / counts.clamp(min=1)).sum(-1) / (counts > 0).sum(-1)


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
