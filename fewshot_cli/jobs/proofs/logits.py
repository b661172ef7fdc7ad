"""Whether two sets of logits are equal, but for rounding."""

import torch
from torch import Tensor

from fewshot_cli.errors import CheckFailed

TOLERANCE = 1e-4
"""The largest difference between logits that this program computes twice, relative to the largest logit."""

TOLERANCE_ELSEWHERE = 1e-3
"""The same for logits of another program, whose kernels add up in another order."""

MOST_CHANGED = 0.01
"""The share of the images whose labels rounding may change."""


def check_logits(found: Tensor, wanted: Tensor, problem: str, hint: str, tolerance: float = TOLERANCE) -> float:
    """The largest difference between logits `(n, way)` of one model.

    Raises CheckFailed, with `problem` and the difference, where it is more than rounding.
    """
    difference = float((found - wanted).abs().max())
    if not difference <= tolerance * max(1.0, float(wanted.abs().max())):  # nor where it is not a number
        raise CheckFailed(f"{problem}: logits differ by up to {difference:g}.", hint)
    return difference


def check_labels(rounded: Tensor, exact: Tensor, kept_as: str, hint: str) -> float:
    """The share in [0, 1] of the images that have the same labels, `(n,)` or one for each class `(n, way)`.

    `kept_as` says what was rounded. Raises CheckFailed where rounding changes more than `MOST_CHANGED` of them.
    """
    changed = int((rounded != exact).reshape(len(exact), -1).any(1).sum())
    if changed > MOST_CHANGED * len(exact):
        raise CheckFailed(f"{kept_as} other answers on {changed} of the {len(exact)} images.", hint)
    return 1 - changed / len(exact)


def same_labels(one: Tensor, other: Tensor) -> float:
    """The share in [0, 1] of the images whose most likely class is the same in both logits `(n, way)`."""
    return float((one.argmax(1) == other.argmax(1)).to(torch.float32).mean())
