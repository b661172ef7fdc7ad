"""Ridge regression on one-hot labels: a linear probe in closed form (Bertinetto et al., 2019, arXiv:1805.08136)."""

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fewshot_cli.engine.heads import Head, typical_norm
from fewshot_cli.methods.base import ClosedFormMethod


class Ridge(ClosedFormMethod):
    """The linear layer with the least |X W + b - Y|² + strength |W|², Y one-hot labels, X features of typical norm 1.

    Differs from R2-D2: nothing is meta-learned, and the intercept b is free. Logits are the scores times `scale`;
    `adapt` then fits one temperature, so `scale` only matters where there is too little to fit it on.
    """

    name: Literal["ridge"] = "ridge"
    strength: float = Field(default=0.3, gt=0)
    scale: float = Field(default=10.0, gt=0)

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        norm = typical_norm(features)
        x, y = features.double() / norm, F.one_hot(labels, way).double()
        weight = self._inverse_times_transposed(x - x.mean(0)) @ (y - y.mean(0))
        bias = y.mean(0) - x.mean(0) @ weight
        return Head((self.scale / norm * weight.T).to(features), (self.scale * bias).to(features), unit_norm=False)

    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        # The residual without an image is its residual with it over 1 - leverage (Allen, 1974: the PRESS statistic).
        x, y = features.double() / typical_norm(features), F.one_hot(labels, way).double()
        centred = x - x.mean(0)
        hat = centred @ self._inverse_times_transposed(centred) + 1 / len(x)  # scores = hat @ y
        leverage = hat.diagonal().unsqueeze(1)
        scores = y - (y - hat @ y) / (1 - leverage)
        alone = torch.bincount(labels, minlength=way) == 1
        scores = scores.masked_fill(F.one_hot(labels, way).bool() & alone, -torch.inf)
        return (self.scale * scores).to(features)

    def _inverse_times_transposed(self, x: Tensor) -> Tensor:
        """(XᵀX + strength I)⁻¹ Xᵀ, `(dim, support)`, through the smaller of the two Gram matrices."""
        support, dim = x.shape
        if support <= dim:
            kernel = x @ x.T + self.strength * torch.eye(support).to(x)
            return torch.cholesky_solve(x, torch.linalg.cholesky(kernel)).T
        scatter = x.T @ x + self.strength * torch.eye(dim).to(x)
        return torch.cholesky_solve(x.T, torch.linalg.cholesky(scatter))
