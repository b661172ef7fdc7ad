"""Gaussian classes of one covariance, whose inverse is estimated without a setting to choose.

The estimator is Kubokawa and Srivastava's (2008, J. Multivariate Analysis): P = dim (S + spread I)^-1, S the scatter of
the features `(n, dim)` around the means of their classes, and spread = trace(S) / (n - 1).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.head.linear import Head, class_means
from fewshot_cli.engine.head.ridge import times_inverse, times_inverse_gram
from fewshot_cli.engine.head.solving import where_solved
from fewshot_cli.engine.head.sufficient_statistics import Moments

LEAST_SPREAD = 1e-12
"""Of the features' squares: where less is left around the class means, they are taken for nothing but means."""


def gaussian_head(features: Tensor, labels: Tensor, way: int) -> Head:
    """The head of features `(..., n, dim)`: logit_c(f) = f P m_c - m_c P m_c / 2 - log(way), m_c the class means.

    Axes before these are tasks. Where nothing is left around the means, the spread is that of the features themselves,
    and the nearest mean answers.
    """
    device = features.device
    features, labels = where_solved(features, labels)
    f = features.double()
    means = class_means(f, labels, way)
    left = f - torch.take_along_dim(means, labels.unsqueeze(-1), -2)
    spread = _spread(left.square().sum((-2, -1)), f.square().sum((-2, -1)), f.shape[-2] - 1)
    weight = f.shape[-1] * times_inverse_gram(means, left, spread[..., None, None])
    return _head(weight, means, features.dtype).to(device)


def grown_gaussian_head(moments: Moments) -> Head:
    """The head that `gaussian_head` fits to all images of the moments; float32."""
    scatter, means = moments.scatter_within, moments.class_means
    spread = _spread(scatter.trace(), moments.second.trace(), int(moments.n) - 1)
    return _head(scatter.shape[0] * times_inverse(means, scatter, spread), means, torch.float32)


def gaussian_leave_one_out(features: Tensor, labels: Tensor, way: int) -> Tensor:
    """Logits `(n, way)`: row i is what `gaussian_head` fitted without image i says of image i, exactly.

    A class whose only image is left out gets -inf.
    """
    device = features.device
    features, labels = where_solved(features, labels)
    f, members = features.double(), F.one_hot(labels, way)
    count = members.sum(0)[labels]
    means = class_means(f, labels, way)
    without = (count[:, None] * means[labels] - f) / (count[:, None] - 1).clamp(min=1)
    d = f - means[labels]
    lost = count / (count - 1).clamp(min=1)  # the scatter without image i is S - lost dᵢ dᵢᵀ
    squares, trace = f.square().sum(1), d.square().sum()
    spread = _spread((trace - lost * d.square().sum(1)).clamp(min=0), squares.sum() - squares, len(f) - 2)
    each = _WithoutEach.of(d, lost, spread)
    own = torch.arange(len(f)), labels
    logits = each.times(f, means) - 0.5 * each.squares(means)
    logits[own] = (each.pairs(f, without) - 0.5 * each.pairs(without, without)).to(logits)
    logits = f.shape[1] * logits - torch.tensor(float(way)).log()
    return logits.masked_fill(members.bool() & (count == 1)[:, None], -torch.inf).to(device, features.dtype)


@dataclass(frozen=True)
class _WithoutEach:
    """(S - lost_i d_i d_iᵀ + spread_i I)^-1 for every image i, as products of vectors.

    `axes` `(dim, r)` are the eigenvectors of S = dᵀ d. In their coordinates the inverse is diagonal, and Sherman and
    Morrison's formula takes d_i out.
    """

    axes: Tensor
    shrunk: Tensor
    """1 / (eigenvalue + spread_i) - 1 / spread_i, `(n, r)`."""
    spread: Tensor
    d: Tensor
    correction: Tensor
    """What the product of two vectors' products with d_i is multiplied by, `(n,)`."""

    @classmethod
    def of(cls, d: Tensor, lost: Tensor, spread: Tensor) -> "_WithoutEach":
        _, singular, axes = torch.linalg.svd(d, full_matrices=False)
        shrunk = 1 / (singular.square() + spread[:, None]) - 1 / spread[:, None]
        plain = cls(axes.T, shrunk, spread, d, torch.zeros_like(spread))
        return cls(axes.T, shrunk, spread, d, 1 / (1 / lost - plain.pairs(d, d)))

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """a_i times the inverse times b_i, `(n,)`, for a and b `(n, dim)`."""
        found = self._pairs(a, b)
        return found + self.correction * self._pairs(a, self.d) * self._pairs(b, self.d)

    def times(self, a: Tensor, others: Tensor) -> Tensor:
        """a_i times the inverse times each of the others `(k, dim)`: `(n, k)`."""
        found = a @ others.T / self.spread[:, None] + ((a @ self.axes) * self.shrunk) @ (others @ self.axes).T
        return found + (self.correction * self._pairs(a, self.d))[:, None] * self._d_times(others)

    def squares(self, others: Tensor) -> Tensor:
        """Each of the others `(k, dim)` times the inverse times itself: `(n, k)`."""
        plain = others.square().sum(1) / self.spread[:, None] + self.shrunk @ (others @ self.axes).square().T
        return plain + self.correction[:, None] * self._d_times(others).square()

    def _d_times(self, others: Tensor) -> Tensor:
        u = self.d @ self.axes
        return self.d @ others.T / self.spread[:, None] + (u * self.shrunk) @ (others @ self.axes).T

    def _pairs(self, a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1) / self.spread + ((a @ self.axes) * self.shrunk * (b @ self.axes)).sum(1)


def _spread(left: Tensor, squares: Tensor, freedom: int) -> Tensor:
    """trace(S) / freedom, for the sums of squares around the class means and of all; see LEAST_SPREAD."""
    nothing = left <= LEAST_SPREAD * squares
    return torch.where(nothing, squares.clamp(min=1e-300), left) / max(1, freedom)


def _head(weight: Tensor, means: Tensor, dtype: torch.dtype) -> Head:
    way = torch.tensor(float(means.shape[-2]))
    bias = -0.5 * (means * weight).sum(-1) - way.log()
    return Head(weight.to(dtype), bias.to(dtype), unit_norm=False)
