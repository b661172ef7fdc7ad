"""Linear discriminant analysis on features, the head of FSA (Panos et al., ICCV 2023, arXiv:2303.13199)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.methods.base import GrowingMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.head.sufficient_statistics import Moments
    from fewshot_cli.engine.trust.unknown import KnownScore


class LDA(GrowingMethod):
    """Gaussian classes of one covariance: logit_c(f) = fᵀ Σ⁻¹ μ_c - ½ μ_cᵀ Σ⁻¹ μ_c, with Σ = covariance + ridge I.

    `covariance: total` is FSA's, over all features whatever their class (n - 1 in the denominator); `within` is the
    textbook's, around the class means (n - classes). `ridge` is in units of the raw features' variance.
    """

    name: Literal["lda"] = "lda"
    covariance: Literal["total", "within"] = "total"
    ridge: float = Field(default=1.0, gt=0)

    def usual_sharpening(self, images: int, way: int, dim: int) -> float:
        return 1.6

    def known_score(self, negatives: bool) -> KnownScore:
        return "probability"

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        import torch.nn.functional as F

        from fewshot_cli.engine.head.linear import class_means
        from fewshot_cli.engine.head.solving import where_solved

        device = features.device
        features, labels = where_solved(features, labels)
        f = features.double()
        means = class_means(f, labels, way)
        freedom = self._freedom(F.one_hot(labels, way).sum(-2))[..., None, None]
        weight = self._times_precision(means, self._deviations(f, labels, means), freedom)
        return _linear(weight, means, features.dtype).to(device)

    def grown_head(self, moments: Moments) -> Head:
        import torch

        from fewshot_cli.engine.head.ridge import times_inverse

        scatter = moments.scatter if self.covariance == "total" else moments.scatter_within
        freedom = self._freedom(moments.counts)
        weight = freedom * times_inverse(moments.class_means, scatter, freedom * self.ridge)
        return _linear(weight, moments.class_means, torch.float32)

    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        import torch
        import torch.nn.functional as F

        from fewshot_cli.engine.head.linear import class_means
        from fewshot_cli.engine.head.solving import where_solved

        device = features.device
        features, labels = where_solved(features, labels)
        # Without image i the scatter loses one outer product, c dᵢ dᵢᵀ, and its class mean moves; Sherman and
        # Morrison's formula gives aᵀ Σᵢ⁻¹ b = aᵀ Σ⁻¹ b + (aᵀ Σ⁻¹ dᵢ)(dᵢᵀ Σ⁻¹ b) / (1/c - dᵢᵀ Σ⁻¹ dᵢ).
        f, members = features.double(), F.one_hot(labels, way)
        count = members.sum(0)[labels]
        means = class_means(f, labels, way)
        without = (count[:, None] * means[labels] - f) / (count[:, None] - 1).clamp(min=1)
        d = self._deviations(f, labels, means)
        group = torch.full_like(count, len(f)) if self.covariance == "total" else count  # how many made d's mean
        freedom = self._freedom(members.sum(0) - members)
        logits = f.new_empty(len(f), way)
        for value in torch.unique(freedom):  # one value, or two where some class has a single image
            rows = freedom == value
            shrink = value * (group[rows] - 1) / group[rows]  # 1/c; 0 where the class has one image, whose d is zero
            times_precision = partial(self._times_precision, d=d, freedom=value)
            logits[rows] = _without_each(f[rows], d[rows], shrink, labels[rows], means, without[rows], times_precision)
        return logits.masked_fill(members.bool() & (count == 1)[:, None], -torch.inf).to(device, features.dtype)

    def _deviations(self, f: Tensor, labels: Tensor, means: Tensor) -> Tensor:
        """Each feature minus the mean it is held against: of all of them, or of its class."""
        import torch

        if self.covariance == "total":
            return f - f.mean(-2, keepdim=True)
        return f - torch.take_along_dim(means, labels.unsqueeze(-1), -2)

    def _freedom(self, counts: Tensor) -> Tensor:
        """The denominator `(...)` of the covariance, for counts `(..., way)` of images."""
        lost = 1 if self.covariance == "total" else (counts > 0).sum(-1)
        return (counts.sum(-1) - lost).clamp(min=1).double()

    def _times_precision(self, rows: Tensor, d: Tensor, freedom: Tensor) -> Tensor:
        """rows Σ⁻¹, `(..., k, dim)`, for Σ = DᵀD / freedom + ridge I."""
        from fewshot_cli.engine.head.ridge import times_inverse_gram

        return freedom * times_inverse_gram(rows, d, freedom * self.ridge)


def _linear(weight: Tensor, means: Tensor, dtype: torch.dtype) -> Head:
    """The head of class means and their product with Σ⁻¹, which is its weight."""
    from fewshot_cli.engine.head.linear import Head

    bias = -0.5 * (means * weight).sum(-1)
    return Head(weight.to(dtype), bias.to(dtype), unit_norm=False)


def _without_each(
    f: Tensor,
    d: Tensor,
    shrink: Tensor,
    labels: Tensor,
    means: Tensor,
    without: Tensor,
    times_precision: Callable[[Tensor], Tensor],
) -> Tensor:
    """LDA's logits `(n, way)` of each feature, under the covariance and the mean of its own class without it."""
    import torch

    vectors = d, means, without
    d_, means_, without_ = torch.split(times_precision(torch.cat(vectors)), [len(rows) for rows in vectors])
    correction = torch.where(shrink > 0, 1 / (shrink - (d_ * d).sum(1)), 0.0)
    f_d = (f * d_).sum(1) * correction

    def logit(f_mean: Tensor, d_mean: Tensor, mean_mean: Tensor, f_d: Tensor, correction: Tensor) -> Tensor:
        return f_mean + f_d * d_mean - 0.5 * (mean_mean + correction * d_mean.square())

    logits = logit(f @ means_.T, d @ means_.T, (means_ * means).sum(1), f_d[:, None], correction[:, None])
    own = logit((f * without_).sum(1), (d * without_).sum(1), (without * without_).sum(1), f_d, correction)
    logits[torch.arange(len(f)), labels] = own
    return logits
