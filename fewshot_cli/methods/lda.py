"""Linear discriminant analysis on features, the head of FSA (Panos et al., ICCV 2023, arXiv:2303.13199)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fewshot_cli.engine.heads import Head, class_means
from fewshot_cli.methods.base import ClosedFormMethod


class LDA(ClosedFormMethod):
    """Gaussian classes of one covariance: logit_c(f) = fᵀ Σ⁻¹ μ_c - ½ μ_cᵀ Σ⁻¹ μ_c, with Σ = covariance + ridge I.

    `covariance: total` is FSA's, over all features whatever their class (n - 1 in the denominator); `within` is the
    textbook's, around the class means (n - classes). `ridge` is in units of the raw features' variance.
    """

    name: Literal["lda"] = "lda"
    covariance: Literal["total", "within"] = "total"
    ridge: float = Field(default=1.0, gt=0)

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        f = features.double()
        means = class_means(f, labels, way)
        deviations, _ = self._deviations(f, labels, means)
        weight = self._inverse(deviations.T @ deviations, self._freedom(labels)) @ means.T
        bias = -0.5 * (means.T * weight).sum(0)
        return Head(weight.T.to(features), bias.to(features), unit_norm=False)

    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        # Without image i the scatter loses one outer product, c dᵢ dᵢᵀ, and its class mean moves; Sherman and
        # Morrison's formula gives aᵀ Σᵢ⁻¹ b = aᵀ Σ⁻¹ b + (aᵀ Σ⁻¹ dᵢ)(dᵢᵀ Σ⁻¹ b) / (1/c - dᵢᵀ Σ⁻¹ dᵢ).
        f = features.double()
        count = torch.bincount(labels, minlength=way)[labels]
        means = class_means(f, labels, way)
        without = (count[:, None] * means[labels] - f) / (count[:, None] - 1).clamp(min=1)
        d, group = self._deviations(f, labels, means)
        freedom = self._freedom(labels) - (1 if self.covariance == "total" else (count > 1).double())
        freedom = torch.as_tensor(freedom).clamp(min=1).expand(len(f))
        logits = f.new_empty(len(f), way)
        for value in torch.unique(freedom):  # one value, or two where some class has a single image
            rows = freedom == value
            inverse = self._inverse(d.T @ d, float(value))
            shrink = value * (group[rows] - 1) / group[rows]  # 1/c; 0 where the class has one image, whose d is zero
            logits[rows] = _without_each(f[rows], d[rows], shrink, labels[rows], means, without[rows], inverse)
        alone = F.one_hot(labels, way).bool() & (count == 1)[:, None]
        return logits.masked_fill(alone, -torch.inf).to(features)

    def _deviations(self, f: Tensor, labels: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """Each feature minus the mean it is held against, and how many features made that mean."""
        if self.covariance == "total":
            return f - f.mean(0), torch.full((len(f),), float(len(f))).to(f)
        return f - means[labels], torch.bincount(labels, minlength=len(means))[labels].to(f)

    def _freedom(self, labels: Tensor) -> float:
        lost = 1 if self.covariance == "total" else len(torch.unique(labels))
        return max(1, len(labels) - lost)

    def _inverse(self, scatter: Tensor, freedom: float) -> Tensor:
        sigma = scatter / freedom + self.ridge * torch.eye(len(scatter)).to(scatter)
        return torch.cholesky_inverse(torch.linalg.cholesky(sigma))


def _without_each(
    f: Tensor, d: Tensor, shrink: Tensor, labels: Tensor, means: Tensor, without: Tensor, inverse: Tensor
) -> Tensor:
    """LDA's logits `(n, way)` of each feature, under the covariance and the mean of its own class without it."""
    correction = torch.where(shrink > 0, 1 / (shrink - (d @ inverse * d).sum(1)), 0.0)
    f_d = (f @ inverse * d).sum(1) * correction

    def logit(f_mean: Tensor, d_mean: Tensor, mean_mean: Tensor, f_d: Tensor, correction: Tensor) -> Tensor:
        return f_mean + f_d * d_mean - 0.5 * (mean_mean + correction * d_mean.square())

    logits = logit(
        f @ inverse @ means.T,
        d @ inverse @ means.T,
        (means @ inverse * means).sum(1),
        f_d[:, None],
        correction[:, None],
    )
    own = logit(
        (f @ inverse * without).sum(1),
        (d @ inverse * without).sum(1),
        (without @ inverse * without).sum(1),
        f_d,
        correction,
    )
    logits[torch.arange(len(f)), labels] = own
    return logits
