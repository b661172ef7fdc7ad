"""Which of several classifiers of one task to take, by what each says of images that were left out."""

import math
from collections.abc import Sequence

from torch import Tensor

BY_CHANCE = 0.001
"""How likely chance alone may give another candidate such a lead; see LOG.md for more."""


def chosen(candidates: Sequence[Tensor], labels: Tensor, usual: int = 0) -> int:
    """The place of the candidate to take; each is held-out logits `(n, way)` about the same images.

    It is the `usual` one, which should be what is best as a rule, unless another is right about more images. Of those
    for which chance is the least likely reason, by the exact form of McNemar's test (1947), the first is taken.
    """
    right = [logits.argmax(1) == labels for logits in candidates]
    chances = [by_chance(int((one & ~right[usual]).sum()), int((right[usual] & ~one).sum())) for one in right]
    best = min(range(len(chances)), key=chances.__getitem__)
    return best if chances[best] < BY_CHANCE else usual


def by_chance(wins: int, losses: int) -> float:
    """The probability of so many wins or more, where a win is as likely as a loss."""
    n = wins + losses
    return math.fsum(math.comb(n, k) / 2**n for k in range(wins, n + 1))
