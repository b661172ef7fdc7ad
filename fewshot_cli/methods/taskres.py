"""TaskRes: a residual on the texts' class vectors (Yu et al., 2023, CVPR, arXiv:2211.10277)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.methods.base import TextHead

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head

MANY_SHOTS = 8
"""Images of each class from which on twice as many steps are made."""


class TaskRes(TextHead):
    """Class vectors t + `share` r: r starts at 0 and is trained by Adam, of which `weight_decay` is in the gradient.

    Without `steps` there are 100, and 200 from eight images of each class on, all images in each; the learning rate
    follows CoOp's schedule. Differs from the paper: t is of unit norm, and features are of the plain images.
    """

    name: Literal["taskres"] = "taskres"
    share: float = Field(default=0.5, gt=0)
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    steps: int | None = Field(default=None, ge=0)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    def with_text(self, features: Tensor, labels: Tensor, texts: Tensor) -> Head:
        from fewshot_cli.engine.head.linear import cosine_head
        from fewshot_cli.engine.train.schedules import prompt_lr

        steps = self.steps
        if steps is None:
            steps = 200 if len(labels) >= MANY_SHOTS * len(texts) else 100
        rates = [prompt_lr(step, self.lr, steps) for step in range(steps)]
        residual = self.residual(features, labels, texts, rates)
        return cosine_head(texts + self.share * residual, self.scale)

    def residual(self, features: Tensor, labels: Tensor, texts: Tensor, rates: Sequence[float]) -> Tensor:
        """r `(way, dim)` after a step with each of the learning rates."""
        import torch
        import torch.nn.functional as F

        unit = F.normalize(features, dim=1)
        with torch.enable_grad():
            residual = torch.zeros_like(texts).requires_grad_()
            optimiser = torch.optim.Adam([residual], weight_decay=self.weight_decay)
            for rate in rates:
                optimiser.param_groups[0]["lr"] = rate
                optimiser.zero_grad(set_to_none=True)
                loss = F.cross_entropy(self.logits(unit, texts, residual), labels)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return residual.detach()

    def logits(self, unit: Tensor, texts: Tensor, residual: Tensor) -> Tensor:
        """`(n, way)`, of features of unit norm."""
        import torch.nn.functional as F

        return self.scale * unit @ F.normalize(texts + self.share * residual, dim=1).T
