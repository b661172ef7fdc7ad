"""The accuracy to expect on new images, from answers about images that parts of a support set left out.

Accuracy is taken to grow, in logits, by a slope times ln(images a class): a learning curve. The slope is measured
between half of the support set and most of it, and pulled to a typical one, since few images hardly show it.
The constants were chosen on four sets and tested on four others (`benchmarks/trust.py`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.trust.metrics import Z95, Interval

SLOPE = 0.68
"""The typical slope up to the size of the support set."""
SLOPE_AHEAD = 0.58
"""The typical slope beyond it: curves become flatter."""
SLOPE_SPREAD = 0.2
"""The standard deviation of slopes between tasks."""
SLOPE_NOISE = 0.8
"""The variance of the difference of two logits, as a multiple of that of one: both judge the same images."""
EFFECTIVE = 0.95
"""How many independent answers a held-out image counts for."""
LASTING = 0.007
"""The variance that no number of images takes away, as a multiple of that of one answer."""


@dataclass(frozen=True)
class Measured:
    """The share of held-out images answered right, and from how much it was learned.

    `n` different images were asked about. `size` is the mean over images of ln(images of its class): in the parts that
    were learned from, and `full_size` in the whole support set.
    """

    share: float
    n: int
    size: float
    full_size: float


def held_out_share(right: Tensor, images: Tensor, labels: Tensor, kept: Tensor) -> Measured:
    """What answers `right` `(asked,)` about `images` `(asked,)` measure; every image counts alike.

    `labels` `(support,)` are those of all images, and `kept` `(way,)` how many of each class were learned from.
    """
    n = len(labels)
    asked = torch.zeros(n).index_add_(0, images, torch.ones(len(images)))
    hits = torch.zeros(n).index_add_(0, images, right.float())
    there = asked > 0
    size, full_size = kept.float().log()[labels], torch.bincount(labels).float().log()[labels]
    share = float((hits[there] / asked[there]).mean())
    return Measured(share, int(there.sum()), float(size[there].mean()), float(full_size.mean()))


@dataclass(frozen=True)
class Slope:
    """How much the logit of accuracy grows for each unit of ln(images a class), and the variance of that."""

    mean: float
    variance: float


def typical_slope(mean: float) -> Slope:
    """The slope where nothing was measured."""
    return Slope(mean, SLOPE_SPREAD**2)


def measured_slope(most: Measured, half: Measured, typical: Slope) -> Slope:
    """The slope between two sizes of a support set, pulled to the typical one by how uncertain it is."""
    apart = most.size - half.size
    if apart <= 0:
        return typical
    found = (_logit(most.share, most.n) - _logit(half.share, half.n)) / apart
    share = _sigmoid(_logit(most.share, most.n))
    noise = SLOPE_NOISE / (most.n * share * (1 - share)) / apart**2
    trust = typical.variance / (typical.variance + noise)
    return Slope(max(0.0, typical.mean + trust * (found - typical.mean)), typical.variance * (1 - trust))


def expected(measured: Measured, slope: Slope, size: float) -> Interval:
    """The accuracy with its 95 % interval once the mean of ln(images a class) is `size`.

    Wilson's interval for as many independent answers as the images are worth, widened by what the slope leaves open.
    """
    ahead = max(0.0, size - measured.size)
    logit = _logit(measured.share, measured.n)
    now = _sigmoid(logit)
    mean = min(1.0, measured.share + _sigmoid(logit + slope.mean * ahead) - now)
    n = 1 / (1 / (EFFECTIVE * measured.n) + LASTING)
    shrink = 1 + Z95**2 / n
    open_slope = slope.variance * (ahead * now * (1 - now)) ** 2
    spread = Z95 * math.sqrt((mean * (1 - mean) / n + Z95**2 / (4 * n**2)) / shrink**2 + open_slope)
    centre = (mean + Z95**2 / (2 * n)) / shrink
    return Interval(mean, max(0.0, centre - spread), min(1.0, centre + spread), measured.n)


def _logit(share: float, n: int) -> float:
    """ln(right / wrong), with half an answer added to both so that it stays finite."""
    return math.log((share * n + 0.5) / ((1 - share) * n + 0.5))


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
