"""Means over episodes with their 95 % intervals, and differences between methods that saw the same episodes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ROUNDING = 9
"""Decimals that count in a difference: 0.9 - 0.8 and 0.8 - 0.7 are one number, however floats have it."""


@dataclass(frozen=True)
class Mean:
    """A mean of `n` episodes, `ci95` to either side of it; None where there are too few to say."""

    mean: float
    ci95: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean of first - second over `n` episodes, its interval and two-sided p (None where there are too few).

    `wins`, `ties` and `losses` count the episodes in which the first has more, as much, less.
    """

    mean: float
    ci95: float | None
    p: float | None
    wins: int
    ties: int
    losses: int
    n: int


@dataclass(frozen=True)
class _Estimate:
    """A mean, its standard error, and the degrees of freedom of Student's t for it."""

    mean: float
    error: float
    freedom: float


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean with the half width of Student's t interval (1908): t(0.975, n - 1) · s / √n, with n - 1 in s."""
    return mean_over([values])


def mean_over(strata: Sequence[Sequence[float]], weights: Sequence[float] | None = None) -> Mean:
    """The mean of the strata's means, plain or by `weights` that sum to 1, however many episodes each has.

    Strata are independent: their standard errors add in squares (Cochran, Sampling Techniques, 1977, chapter 5), with
    Welch's and Satterthwaite's degrees of freedom (1946), (Σ a)² / Σ (a² / (n - 1)) for a = (weight · s)² / n.
    """
    arrays = [np.asarray(values, np.float64) for values in strata]
    found = _estimate(arrays, weights)
    return Mean(found.mean, _half_width(found), sum(len(values) for values in arrays))


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """How much more the first has than the second on the same episodes, by Student's paired t test (1908)."""
    return paired_over([first], [second])


def paired_over(
    firsts: Sequence[Sequence[float]], seconds: Sequence[Sequence[float]], weights: Sequence[float] | None = None
) -> Difference:
    """The paired difference over independent strata, combined as `mean_over` combines means.

    Where no difference is anywhere, p is 1. Where all n are one and the same, but not 0, t is infinite and its p of 0
    would claim too much for few episodes; p is then 2^(1 - n), the least that flipping signs at random (Fisher, 1935)
    can give.
    """
    gaps = [
        np.round(np.asarray(first, np.float64) - np.asarray(second, np.float64), ROUNDING)
        for first, second in zip(firsts, seconds, strict=True)
    ]
    every = np.concatenate(gaps)
    found = _estimate(gaps, weights)
    wins, losses = int((every > 0).sum()), int((every < 0).sum())
    return Difference(
        found.mean, _half_width(found), _p(found, every), wins, len(every) - wins - losses, losses, len(every)
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for being many, in the same order: Holm's step-down (1979), valid under any dependence.

    The i-th least of m is multiplied by m - i + 1; none is below a lesser one, nor above 1.
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def _estimate(strata: Sequence[Floats], weights: Sequence[float] | None) -> _Estimate:
    weights = weights or [1 / len(strata)] * len(strata)
    mean = sum(weight * _mean(values) for weight, values in zip(weights, strata, strict=True))
    if min(len(values) for values in strata) < 2:
        return _Estimate(mean, math.nan, math.nan)
    parts = [weight**2 * _variance(values) / len(values) for weight, values in zip(weights, strata, strict=True)]
    spread = sum(parts)
    if spread == 0:
        return _Estimate(mean, 0.0, math.inf)
    freedom = 1 / sum((part / spread) ** 2 / (len(values) - 1) for part, values in zip(parts, strata, strict=True))
    return _Estimate(mean, math.sqrt(spread), freedom)


def _mean(values: Floats) -> float:
    """The mean, and where all values are the same exactly that."""
    return float(values[0]) if np.ptp(values) == 0 else float(values.mean())


def _variance(values: Floats) -> float:
    return 0.0 if np.ptp(values) == 0 else float(values.var(ddof=1))


def _half_width(found: _Estimate) -> float | None:
    from scipy.special import stdtrit

    if math.isnan(found.error):
        return None
    return float(stdtrit(found.freedom, 0.975)) * found.error if found.error else 0.0


def _p(found: _Estimate, differences: Floats) -> float | None:
    from scipy.special import stdtr

    if math.isnan(found.error):
        return None
    if found.error:
        return float(2 * stdtr(found.freedom, -abs(found.mean / found.error)))
    return 1.0 if found.mean == 0 else 2.0 ** (1 - len(differences))
