"""Multinomial logistic regression: the linear probe that most papers compare with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.methods.base import HeadMethod

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.trust.unknown import KnownScore


class Logistic(HeadMethod):
    """The linear layer with the least ½|W|² + `inverse_strength` x sum of cross-entropies.

    scikit-learn's `LogisticRegression(C=inverse_strength)`, which BECLR's evaluation uses, on features divided by their
    typical norm. The problem is convex and solved to its optimum by L-BFGS, so there is no step count to choose. The
    intercept is not penalised.
    """

    name: Literal["logistic"] = "logistic"
    inverse_strength: float = Field(default=100.0, gt=0)

    def known_score(self, negatives: bool) -> KnownScore:
        return "probability"

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        import torch

        from fewshot_cli.engine.head.linear import Head, typical_norm
        from fewshot_cli.engine.head.solving import where_solved

        device = features.device
        features, labels = where_solved(features, labels)
        norm = typical_norm(features)
        x = features.double() / norm
        # The best weights are a combination of the images, in whose span the problem has at most `support` columns.
        u, s, basis = torch.linalg.svd(x, full_matrices=False)
        weight, bias = self._optimum(u * s, labels, way)
        return Head((weight @ basis / norm).to(features), bias.to(features), unit_norm=False).to(device)

    def _optimum(self, x: Tensor, labels: Tensor, way: int) -> tuple[Tensor, Tensor]:
        import torch
        import torch.nn.functional as F

        weight = x.new_zeros(way, x.shape[1], requires_grad=True)
        bias = x.new_zeros(way, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [weight, bias], max_iter=1000, tolerance_grad=1e-6, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), labels, reduction="sum")
            objective = 0.5 * weight.square().sum() + self.inverse_strength * loss
            objective.backward()  # type: ignore[no-untyped-call]
            return objective.detach()

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        return weight.detach(), bias.detach()
