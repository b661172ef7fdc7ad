"""Gaussian classes of one covariance, whose inverse is estimated without a setting to choose."""

import torch
from torch import Tensor

from fewshot_cli.engine.head.linear import Head, class_means


def gaussian_head(features: Tensor, labels: Tensor, way: int) -> Head:
    """The head of features `(n, dim)`: logit_c(f) = f P m_c - m_c P m_c / 2 - log(way), with m_c the class means.

    P = dim ((n - 1) S + tr(S) I)^-1, S the covariance of what is left without the means (Kubokawa and Srivastava,
    2008, J. Multivariate Analysis). Where nothing is left, P is 0.
    """
    f = features.double()
    means = class_means(f, labels, way)
    left = f - means[labels]
    left = left - left.mean(0)
    freedom, dim = max(1, len(f) - 1), f.shape[1]
    scatter = left.T @ left
    spread = scatter.trace() / freedom
    if float(spread) <= 1e-12 * float(f.square().sum()):
        weight = torch.zeros_like(means)
    else:
        weight = dim * torch.linalg.solve(scatter + spread * torch.eye(dim, dtype=f.dtype, device=f.device), means.T).T
    bias = -0.5 * (means * weight).sum(1) - torch.tensor(float(way)).log()
    return Head(weight.to(features), bias.to(features), unit_norm=False)
