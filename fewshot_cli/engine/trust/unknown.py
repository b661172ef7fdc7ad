"""Whether a picture is like none of the classes: a score of how known it is, and below which it is refused.

A new picture of the classes scores like held-out ones. So the share that is refused by mistake can be set from these
(conformal novelty detection; Bates et al., 2023, arXiv:2104.08279). Held-out ones were scored by heads that had less to
learn from, though. So their scores are moved first (`grown`), which the paper has no need of.
"""

from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr, ndtri

from fewshot_cli.engine.trust.images_needed import images_to_refuse

KnownScore: TypeAlias = Literal["energy", "probability"]
"""`energy` is the logsumexp of the logits (Liu et al., 2020, arXiv:2010.03759), for heads whose logits are small where
a picture is like no class. `probability` is that of the likeliest class (Hendrycks and Gimpel, 2017, arXiv:1610.02136),
for heads whose logits mean nothing but by their differences."""

GROWTH: dict[KnownScore, float] = {"energy": 0.8, "probability": 0.5}
"""By how many standard deviations scores rise with ln(images of the class), measured by `benchmarks/unknown.py`."""


def known_scores(logits: Tensor, score: KnownScore, unknown: int | None = None) -> Tensor:
    """How known each picture is, `(n,)`, by its logits `(n, way)`; the class `unknown` of negatives is left out."""
    if score == "energy":
        return _without(logits, unknown, -torch.inf).logsumexp(1)
    return _without(logits.softmax(1), unknown, 0.0).max(1).values


def _without(values: Tensor, label: int | None, fill: float) -> Tensor:
    return values if label is None else values.index_fill(1, torch.tensor([label], device=values.device), fill)


def grown(held_out: Tensor, deviations: float) -> Tensor:
    """Held-out scores `(n,)`, sorted, raised by so many standard deviations, as if they were normal.

    Each becomes the quantile whose normal deviate is so much higher; so all stay in their range.
    """
    n = len(held_out)
    ranks = torch.arange(1, n + 1, dtype=torch.float64) / (n + 1)
    moved = ndtr(ndtri(ranks) + deviations)
    return torch.from_numpy(np.quantile(held_out.double().cpu().numpy(), moved.numpy(), method="weibull"))


def refusal_threshold(held_out: Tensor, share: float) -> float:
    """The score below which a picture is refused, so that this share of new pictures of the classes is.

    `held_out` `(n,)` are scores of held-out images. Between two of them the threshold is interpolated at share (n + 1).
    Raises ValueError where they are too few to tell.
    """
    if len(held_out) < images_to_refuse(share):
        raise ValueError(f"refusing {share:g} takes {images_to_refuse(share)} held-out images, not {len(held_out)}")
    return float(np.quantile(held_out.cpu().numpy(), share, method="weibull"))
