"""Ridge regression on one-hot labels, in closed form: |X W + b - Y|² + strength |W|², features X of typical norm 1."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.heads import Head, typical_norm

STRENGTH = 0.3
SCALE = 10.0


def ridge_head(features: Tensor, labels: Tensor, way: int, strength: float = STRENGTH, scale: float = SCALE) -> Head:
    """The linear head with the least penalised squares; logits are its scores times `scale`."""
    norm = typical_norm(features)
    x, y = features.double() / norm, F.one_hot(labels, way).double()
    weight = _inverse_times_transposed(x - x.mean(0), strength) @ (y - y.mean(0))
    bias = y.mean(0) - x.mean(0) @ weight
    return Head((scale / norm * weight.T).to(features), (scale * bias).to(features), unit_norm=False)


def ridge_leave_one_out(features: Tensor, labels: Tensor, way: int, strength: float, scale: float) -> Tensor:
    """Logits `(support, way)`: row i is what `ridge_head` fitted without image i says of image i, exactly.

    The residual without an image is its residual with it over 1 - leverage (Allen, 1974: the PRESS statistic). A class
    whose only image is left out gets -inf.
    """
    x, y = features.double() / typical_norm(features), F.one_hot(labels, way).double()
    centred = x - x.mean(0)
    hat = centred @ _inverse_times_transposed(centred, strength) + 1 / len(x)  # scores = hat @ y
    leverage = hat.diagonal().unsqueeze(1)
    scores = y - (y - hat @ y) / (1 - leverage)
    alone = torch.bincount(labels, minlength=way) == 1
    scores = scores.masked_fill(F.one_hot(labels, way).bool() & alone, -torch.inf)
    return (scale * scores).to(features)


def _inverse_times_transposed(x: Tensor, strength: float) -> Tensor:
    """(XᵀX + strength I)⁻¹ Xᵀ, `(dim, support)`, through the smaller of the two Gram matrices."""
    support, dim = x.shape
    if support <= dim:
        kernel = x @ x.T + strength * torch.eye(support).to(x)
        return torch.cholesky_solve(x, torch.linalg.cholesky(kernel)).T
    scatter = x.T @ x + strength * torch.eye(dim).to(x)
    return torch.cholesky_solve(x.T, torch.linalg.cholesky(scatter))
