"""Ridge regression on one-hot labels, in closed form: |X W + b - Y|² + strength |W|², features X of typical norm 1."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.defaults import RIDGE_SCALE, RIDGE_STRENGTH
from fewshot_cli.engine.head.linear import Head, typical_norm, typical_norms_without_each
from fewshot_cli.engine.head.solving import where_solved
from fewshot_cli.engine.head.sufficient_statistics import Moments


def ridge_head(
    features: Tensor, labels: Tensor, way: int, strength: float = RIDGE_STRENGTH, scale: float = RIDGE_SCALE
) -> Head:
    """The linear head with the least penalised squares; logits are its scores times `scale`.

    Features are `(..., support, dim)` and labels `(..., support)`; axes before these are tasks.
    """
    return marks_head(features, F.one_hot(labels, way), strength, scale)


def marks_head(features: Tensor, marks: Tensor, strength: float = RIDGE_STRENGTH, scale: float = RIDGE_SCALE) -> Head:
    """The same for `marks` `(..., support, way)`, of which any number in a row is one, and the others zero."""
    device = features.device
    features, marks = where_solved(features, marks)
    norm = typical_norm(features)[..., None, None]
    x, y = features.double() / norm, marks.double()
    x_mean, y_mean = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
    weight = regression(x - x_mean, y - y_mean, strength)
    bias = (y_mean - x_mean @ weight.mT).squeeze(-2)
    return Head((scale / norm * weight).to(features), (scale * bias).to(features), unit_norm=False).to(device)


def grown_ridge_head(moments: Moments, strength: float = RIDGE_STRENGTH, scale: float = RIDGE_SCALE) -> Head:
    """The head that `ridge_head` fits to all images of the moments, through the normal equations."""
    norm = moments.typical_norm
    x_mean, y_mean = moments.mean / norm, moments.counts / moments.n
    weight = times_inverse(moments.class_deviations / norm, moments.scatter / norm**2, strength)
    bias = y_mean - weight @ x_mean
    return Head((scale / norm * weight).float(), (scale * bias).float(), unit_norm=False)


def ridge_leave_one_out(features: Tensor, labels: Tensor, way: int, strength: float, scale: float) -> Tensor:
    """Logits `(support, way)`: row i is what `ridge_head` fitted without image i says of image i, exactly.

    A class whose only image is left out gets -inf.
    """
    marks = F.one_hot(labels, way)
    scores = scale * marks_leave_one_out(features, marks, strength)
    alone = torch.bincount(labels, minlength=way) == 1
    return scores.masked_fill(marks.bool() & alone, -torch.inf).to(features.dtype)


def marks_leave_one_out(features: Tensor, marks: Tensor, strength: float) -> Tensor:
    """Scores `(support, way)`, float64: row i is what `marks_head` of scale 1 fitted without image i says of it."""
    device = features.device
    features, marks = where_solved(features, marks)
    norms = typical_norms_without_each(features)
    scores = features.new_empty(marks.shape, dtype=torch.float64)
    for norm in torch.unique(norms):  # one, but where leaving an image out moves it beyond the next power of two
        rows = norms == norm
        scores[rows] = _held_out_scores(features.double() / norm, marks.double(), strength)[rows]
    return scores.to(device)


def _held_out_scores(x: Tensor, y: Tensor, strength: float) -> Tensor:
    """Scores `(n, way)` of each row of x by the regression without it."""
    centred = x - x.mean(0)
    return scores_left_out(hat_matrix(centred, strength) + 1 / len(x), y)


def hat_matrix(x: Tensor, strength: float) -> Tensor:
    """What makes scores of marks, `(n, n)`: scores = hat @ y, for the regression without an intercept on `(n, dim)`."""
    return x @ regression(x, torch.eye(len(x)).to(x), strength).T


def scores_left_out(hat: Tensor, y: Tensor) -> Tensor:
    """Scores `(n, way)` of each image by the linear smoother `hat` `(n, n)` that was fitted without it, exactly.

    The residual without an image is its residual with it over 1 - leverage (Allen, 1974: the PRESS statistic).
    """
    return y - (y - hat @ y) / (1 - hat.diagonal().unsqueeze(1))


def regression(x: Tensor, y: Tensor, strength: float | Tensor) -> Tensor:
    """Yᵀ X (XᵀX + strength I)⁻¹, `(..., way, dim)`, for X `(..., n, dim)` and Y `(..., n, way)`.

    The same as Yᵀ (XXᵀ + strength I)⁻¹ X, so only the smaller of the two Gram matrices is ever solved.
    """
    n, dim = x.shape[-2:]
    if n <= dim:
        return times_inverse(y.mT, x @ x.mT, strength) @ x
    return times_inverse(y.mT @ x, x.mT @ x, strength)


def times_inverse_gram(rows: Tensor, x: Tensor, strength: float | Tensor) -> Tensor:
    """rows (XᵀX + strength I)⁻¹, `(..., k, dim)`, for X `(..., n, dim)`; by Woodbury's formula where n < dim."""
    n, dim = x.shape[-2:]
    if n < dim:
        return (rows - regression(x, x @ rows.mT, strength)) / strength
    return times_inverse(rows, x.mT @ x, strength)


def times_inverse(rows: Tensor, gram: Tensor, strength: float | Tensor) -> Tensor:
    """rows (gram + strength I)⁻¹, `(..., k, dim)`, for a positive semi-definite gram `(..., dim, dim)`."""
    factor = torch.linalg.cholesky(gram + strength * torch.eye(gram.shape[-1]).to(gram))
    return torch.cholesky_solve(rows.mT, factor).mT
