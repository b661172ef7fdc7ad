"""Cross-modal probe: the texts are training samples beside the images (Lin et al., 2023, CVPR, arXiv:2301.06267)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.methods.base import TextHead

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head


class CrossModal(TextHead):
    """Class vectors that start at the texts' and are trained by cross-entropy on images and texts, half each.

    AdamW with the authors' schedule. `share` below 1 mixes what was trained with the texts' own vectors (WiSE-FT).
    Differs from the paper: settings are fixed and the last step is taken, where the authors choose among twelve and
    128 checkpoints on a validation set; every step is on all plain images; the sentences of a class are one sample.
    """

    name: Literal["cross-modal"] = "cross-modal"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    steps: int = Field(default=1000, ge=0)
    share: float = Field(default=1.0, ge=0, le=1)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    def with_text(self, features: Tensor, labels: Tensor, texts: Tensor) -> Head:
        import torch

        from fewshot_cli.engine.head.linear import Head
        from fewshot_cli.engine.train.schedules import cross_modal_lr

        own = torch.arange(len(texts), device=texts.device)
        steps = (
            (cross_modal_lr(step, self.lr, self.steps), features, labels, texts, own) for step in range(self.steps)
        )
        weight = self.share * self.trained(texts, steps) + (1 - self.share) * texts
        return Head(self.scale * weight, texts.new_zeros(len(texts)), unit_norm=True)

    def trained(self, start: Tensor, steps: Iterable[tuple[float, Tensor, Tensor, Tensor, Tensor]]) -> Tensor:
        """The class vectors `(way, dim)` after all steps.

        A step is its learning rate, the features `(n, dim)` and labels of images, and those of texts.
        """
        import torch

        with torch.enable_grad():
            weight = start.detach().clone().requires_grad_()
            optimiser = torch.optim.AdamW([weight], weight_decay=self.weight_decay)
            for rate, *samples in steps:
                optimiser.param_groups[0]["lr"] = rate
                optimiser.zero_grad(set_to_none=True)
                self.loss(weight, *samples).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        return weight.detach()

    def loss(self, weight: Tensor, images: Tensor, labels: Tensor, texts: Tensor, text_labels: Tensor) -> Tensor:
        """The mean of the cross-entropies on images and on texts."""
        import torch.nn.functional as F

        of_images = F.cross_entropy(self.scale * F.normalize(images, dim=1) @ weight.T, labels)
        return (of_images + F.cross_entropy(self.scale * F.normalize(texts, dim=1) @ weight.T, text_labels)) / 2
