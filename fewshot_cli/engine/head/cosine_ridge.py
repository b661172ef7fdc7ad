"""Kernel ridge regression with the cosine kernel, in closed form: |U W - Y|² + strength |W|², rows of U of length 1."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.ridge import hat_matrix, regression, scores_left_out
from fewshot_cli.engine.head.solving import where_solved


def cosine_ridge_head(features: Tensor, labels: Tensor, way: int, strength: float, scale: float) -> Head:
    """The head with the least penalised squares; logits are its scores times `scale`.

    Features are `(..., support, dim)` and labels `(..., support)`; axes before these are tasks.
    """
    device = features.device
    features, labels = where_solved(features, labels)
    unit = F.normalize(features.double(), dim=-1)
    weight = scale * regression(unit, F.one_hot(labels, way).double(), strength)
    return Head(weight.to(features), features.new_zeros(weight.shape[:-1]), unit_norm=True).to(device)


def cosine_ridge_leave_one_out(features: Tensor, labels: Tensor, way: int, strength: float, scale: float) -> Tensor:
    """Logits `(support, way)`: row i is what `cosine_ridge_head` fitted without image i says of image i, exactly.

    A class whose only image is left out gets -inf.
    """
    device = features.device
    features, labels = where_solved(features, labels)
    unit, y = F.normalize(features.double(), dim=-1), F.one_hot(labels, way)
    scores = scores_left_out(hat_matrix(unit, strength), y.double())
    alone = torch.bincount(labels, minlength=way) == 1
    return (scale * scores).masked_fill(y.bool() & alone, -torch.inf).to(device, features.dtype)
