"""How much to sharpen a head, so that its probabilities mean something: temperature scaling with a prior.

A temperature that is fitted to a few held-out answers is too sharp or too blunt by a factor of two or more (Guo et al.,
2017, arXiv:1706.04599, fit it to thousands). Heads in closed form have a usual sharpness, which few answers are
weighed against. Its spread between tasks was found on four sets and tested on others (`benchmarks/calibration.py`).
"""

import torch
from torch import Tensor

from fewshot_cli.engine.trust.metrics import best_sharpening, log_likelihoods

SPREAD = 0.25
"""Of ln(factor) between tasks, the factor being what logits are multiplied by: the scale of Student's t."""
FREEDOM = 3.0
"""The degrees of freedom of that t: its tails are heavy, so that answers no better than chance win over the prior."""


def sharpening(logits: Tensor, labels: Tensor, images: int, usual: float | None) -> float:
    """The factor for a head whose held-out answers are logits `(n, way)` about `images` different images.

    It is the likeliest one under a prior of ln(factor): Student's t around ln(usual), see `SPREAD` and `FREEDOM`.
    Answers about one image count as one. Without a usual factor it is `best_sharpening`.
    """
    if usual is None:
        return best_sharpening(logits, labels)
    steps = torch.linspace(-4, 4, 401, dtype=torch.float64)
    factors = usual * steps.exp()
    logits, labels = logits.double().cpu(), labels.cpu()
    losses = torch.stack([-log_likelihoods(factor * logits, labels).mean() for factor in factors])
    prior = (FREEDOM + 1) / 2 * ((steps / SPREAD).square() / FREEDOM).log1p()
    return float(factors[(images * losses + prior).argmin()])
