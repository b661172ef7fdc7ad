"""Which of several classifiers of one task to take, by what each says of images that were left out."""

import math
from collections.abc import Sequence

from torch import Tensor

from fewshot_cli.engine.trust.metrics import best_sharpening, log_likelihoods

CLEARLY = 3.0
"""Standard errors of the difference by which another candidate must lead; see LOG.md for fewer."""


def sharpest_likelihoods(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of the true class's probability for each image, `(n,)`, of held-out logits `(n, way)`.

    The logits are as sharp as makes the mean the highest, so that heads of any scale can be compared.
    """
    return log_likelihoods((best_sharpening(logits, labels) * logits).double(), labels)


def chosen(candidates: Sequence[Tensor], labels: Tensor) -> int:
    """The place of the candidate to take; each is held-out logits `(n, way)` about the same images.

    It is the first, unless the mean log-likelihood of another is higher by more than `CLEARLY` standard errors of the
    difference on the same images; then it is the one that leads by most. So the first should be what is best as a rule.
    """
    found = [sharpest_likelihoods(logits, labels) for logits in candidates]
    leads = [_lead(other - found[0]) for other in found]
    best = max(range(len(leads)), key=leads.__getitem__)
    return best if leads[best] > 0 else 0


def _lead(differences: Tensor) -> float:
    """The mean of paired differences, less what chance explains; no lead where there is a single difference."""
    if len(differences) < 2:
        return 0.0
    return float(differences.mean() - CLEARLY * differences.std() / math.sqrt(len(differences)))
