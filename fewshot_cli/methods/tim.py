"""TIM: transductive information maximisation (Boudiaf et al., 2020, NeurIPS, arXiv:2008.11297), by gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.methods.base import TransductiveMethod

if TYPE_CHECKING:
    from torch import Tensor


class TIM(TransductiveMethod):
    """Class vectors that start at the prototypes and go down `ce` · cross-entropy on the support set
    - `marginal` · entropy of the mean answer + `conditional` · mean entropy of the answers to all queries.

    Answers are softmax(-`scale` / 2 · |f - w|²) on features of unit norm. The marginal entropy draws answers towards
    all classes alike: where the queries are not balanced, lower `marginal`.
    """

    name: Literal["tim"] = "tim"
    ce: float = Field(default=0.1, ge=0)
    marginal: float = Field(default=1.0, ge=0)
    conditional: float = Field(default=0.1, ge=0)
    scale: float = Field(default=15.0, gt=0)
    lr: float = Field(default=1e-4, gt=0)
    steps: int = Field(default=1000, ge=0, le=100_000)

    def answers(self, features: Tensor, labels: Tensor, way: int, queries: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        support, asked = F.normalize(features, dim=1), F.normalize(queries, dim=1)
        with torch.enable_grad():
            vectors = self.class_vectors(support, labels, way, asked)
        return self.logits(asked, vectors)

    def class_vectors(self, support: Tensor, labels: Tensor, way: int, queries: Tensor) -> Tensor:
        """The class vectors `(way, dim)` after all steps, for features of unit norm."""
        import torch
        import torch.nn.functional as F

        from fewshot_cli.engine.head.linear import class_means

        vectors = class_means(support, labels, way).detach().requires_grad_()
        optimiser = torch.optim.Adam([vectors], lr=self.lr)
        for _ in range(self.steps):
            optimiser.zero_grad(set_to_none=True)
            p = self.logits(queries, vectors).softmax(1)
            loss = self.ce * F.cross_entropy(self.logits(support, vectors), labels)
            loss = loss - self.marginal * _entropy(p.mean(0)) + self.conditional * _entropy(p).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return vectors.detach()

    def logits(self, features: Tensor, vectors: Tensor) -> Tensor:
        """scale · (f · w - ½|w|² - ½|f|²), `(n, way)`."""
        squares = features.square().sum(1, keepdim=True) + vectors.square().sum(1)
        return self.scale * (features @ vectors.T - squares / 2)


def _entropy(p: Tensor) -> Tensor:
    return -(p * (p + 1e-12).log()).sum(-1)
