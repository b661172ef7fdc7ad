"""Whether a picture is like none of the classes: a score of how known it is, and below which it is refused.

A new picture of the classes scores like held-out ones. So the share that is refused by mistake can be set from these
(conformal novelty detection; Bates et al., 2023, arXiv:2104.08279).
"""

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

KnownScore: TypeAlias = Literal["energy", "probability"]
"""`energy` is the logsumexp of the logits (Liu et al., 2020, arXiv:2010.03759), for heads whose logits are small where
a picture is like no class. `probability` is that of the likeliest class (Hendrycks and Gimpel, 2017, arXiv:1610.02136),
for heads whose logits mean nothing but by their differences, and where negatives are a class."""


def known_scores(logits: Tensor, score: KnownScore, unknown: int | None = None) -> Tensor:
    """How known each picture is, `(n,)`, by its logits `(n, way)`; `unknown` is the class of negatives, if any."""
    if score == "energy":
        return logits.logsumexp(1)
    probabilities = logits.softmax(1)
    if unknown is not None:
        probabilities = probabilities.index_fill(1, torch.tensor([unknown], device=logits.device), 0.0)
    return probabilities.max(1).values


def images_to_refuse(share: float) -> int:
    """How many held-out images it takes at least to refuse this share of the known by mistake, and no more."""
    return max(1, math.ceil(1 / share - 1e-9) - 1)


def refusal_threshold(held_out: Tensor, share: float) -> float:
    """The score below which a picture is refused, so that this share of new pictures of the classes is.

    `held_out` `(n,)` are scores of held-out images. Between two of them the threshold is interpolated at share (n + 1).
    Raises ValueError where they are too few to tell.
    """
    ordered = held_out.double().sort().values
    place = share * (len(ordered) + 1)
    if place < 1 - 1e-9:
        raise ValueError(f"refusing {share:g} takes {images_to_refuse(share)} held-out images, not {len(ordered)}")
    below = min(int(place + 1e-9), len(ordered)) - 1
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (place - int(place + 1e-9)) * (ordered[above] - ordered[below]))
