"""LP++: a linear probe with a text prior of a weight for each class (Huang et al., 2024, CVPR, arXiv:2404.02285)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.methods.base import TextHead

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head

FIRST_ALPHA = 250.0
EVERY = 10
"""Steps after which the weights of the texts move."""


class LPPlusPlus(TextHead):
    """Logits f W + b + alpha (f T), with weights alpha of the texts T, one for each class; features of unit norm.

    Step sizes follow from the data (Lipschitz constants), so that there is nothing to choose. W starts at the sums of
    the classes' features. The released code never forgets the gradient of alpha: `accumulate` does as it does.
    Differs from the paper: the last step is taken, where the authors choose one on a validation set, and b starts at 0.
    """

    name: Literal["lp++"] = "lp++"
    steps: int = Field(default=300, ge=0)
    accumulate: bool = False

    def with_text(self, features: Tensor, labels: Tensor, texts: Tensor) -> Head:
        import torch.nn.functional as F

        from fewshot_cli.engine.head.linear import Head

        unit = F.normalize(features, dim=1)
        weight, bias, alpha = self.fit(unit, labels, texts, features.new_zeros(len(texts)))
        return Head(weight + alpha[:, None] * texts, bias, unit_norm=True)

    def fit(self, unit: Tensor, labels: Tensor, texts: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """W `(way, dim)`, b and alpha `(way,)` after all steps, from features of unit norm and a first b."""
        import torch
        import torch.nn.functional as F

        from fewshot_cli.engine.head.linear import class_means

        way, count = len(texts), len(unit)
        said, members = unit @ texts.T, F.one_hot(labels, way).to(unit)
        weight = members.T @ unit
        own = class_means(said.gather(1, labels[:, None]), labels, way)
        alpha = (FIRST_ALPHA * own.mean()).expand(way).clone()
        rate = 4 * count / torch.linalg.matrix_norm(unit, 2).square()
        alpha_rate = count / (4 * said.square().sum(0).max())
        momentum = (torch.zeros_like(weight), torch.zeros_like(bias))
        gathered = torch.zeros_like(alpha)
        for step in range(1, self.steps + 1):
            wrong = ((unit @ weight.T + bias + alpha * said).softmax(1) - members) / count
            momentum = (0.9 * momentum[0] + wrong.T @ unit, 0.9 * momentum[1] + wrong.sum(0))
            weight, bias = weight - rate * momentum[0], bias - rate * momentum[1]
            of_alpha = (wrong * said).sum(0)
            gathered = gathered + of_alpha if self.accumulate else of_alpha
            if step % EVERY == 0:
                alpha = alpha - alpha_rate * gathered
        return weight, bias, alpha
