"""Kernel ridge regression with the cosine kernel, in closed form: |U W - Y|² + strength |W|², rows of U of length 1.

Squares are summed over images, so that a class of few images gets low scores. Those of each class are divided by a
power of its number of images: as logit adjustment (Menon et al., 2021, arXiv:2007.07314) takes new images to be of all
classes alike, but by a factor, since scores of regression are no logarithms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.defaults import COSINE_RIDGE_BALANCE
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.ridge import hat_matrix, regression, scores_left_out
from fewshot_cli.engine.head.solving import where_solved


def cosine_ridge_head(features: Tensor, labels: Tensor, way: int, strength: float, scale: float) -> Head:
    """The head with the least penalised squares; logits are its scores times `scale`.

    Features are `(..., support, dim)` and labels `(..., support)`; axes before these are tasks.
    """
    device = features.device
    features, labels = where_solved(features, labels)
    unit, y = F.normalize(features.double(), dim=-1), F.one_hot(labels, way).double()
    weight = scale * balance(y.sum(-2)).unsqueeze(-1) * regression(unit, y, strength)
    return Head(weight.to(features), features.new_zeros(weight.shape[:-1]), unit_norm=True).to(device)


def balance(counts: Tensor) -> Tensor:
    """What the scores `(..., way)` of classes with so many images are multiplied by: 1 where all have as many."""
    return (counts.mean(-1, keepdim=True) / counts.clamp(min=1)) ** COSINE_RIDGE_BALANCE


def cosine_ridge_leave_one_out(features: Tensor, labels: Tensor, way: int, strength: float, scale: float) -> Tensor:
    """Logits `(support, way)`: row i is what `cosine_ridge_head` fitted without image i says of image i, exactly.

    A class whose only image is left out gets -inf.
    """
    device = features.device
    features, labels = where_solved(features, labels)
    unit, y = F.normalize(features.double(), dim=-1), F.one_hot(labels, way).double()
    others = y.sum(0) - y
    scores = scale * balance(others) * scores_left_out(hat_matrix(unit, strength), y)
    return scores.masked_fill(y.bool() & (others == 0), -torch.inf).to(device, features.dtype)


def weighted_as_all(logits: Tensor, labels: Tensor) -> Tensor:
    """Leave-one-out logits `(support, way)`, classes balanced as by the head of all images, so that none is raised."""
    y = F.one_hot(labels, logits.shape[-1]).double()
    counts = y.sum(0)
    return (logits * balance(counts) / balance(counts - y)).to(logits)
