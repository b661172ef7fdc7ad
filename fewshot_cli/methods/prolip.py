"""ProLIP: only the projection after the image tower is trained (Fahes et al., 2024, arXiv:2410.05270)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone

PROJECTION = "visual.head.weight"
EPSILON = 1e-4
"""Of Adam, as in the authors' half precision; it belongs to the method."""


class ProLIP(Method):
    """The image tower's linear projection, against the texts' class vectors and pulled back to where it was.

    The loss is cross-entropy of `scale` x cosine + `pull` |P - P0|^2; without `pull` it is one over the number of
    images of each class. Every step is on a view of all images, one of `views` random crops of each, seen once.
    Differs from the paper: 20 views by default, where the authors store 300, and single precision.
    """

    name: Literal["prolip"] = "prolip"
    lr: float = Field(default=1e-5, gt=0)
    steps: int = Field(default=300, ge=0)
    views: int = Field(default=20, ge=1)
    pull: float | None = Field(default=None, ge=0)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    @property
    def needs_text(self) -> bool:
        return True

    @property
    def text_scale(self) -> float:
        return self.scale

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        import torch

        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.delta.change import Dense
        from fewshot_cli.engine.head.linear import cosine_head
        from fewshot_cli.engine.train.text import Texts

        Texts.of(backbone, support)
        if PROJECTION not in backbone.params:
            raise FewshotError(
                f"The image tower of {backbone.name} has no projection of its own that could be trained.",
                "Use a vision transformer of CLIP, such as --backbone clip:ViT-B-16/openai.",
            )
        support = support.in_order()
        assert support.vectors is not None
        seen = torch.stack([self._seen(backbone, support, run.seed, view) for view in range(self.views)])
        start = backbone.params[PROJECTION]
        trained = self.projection(seen, support.labels, support.vectors, start, run)
        return Moved({PROJECTION: Dense(trained - start)}, cosine_head(support.vectors, self.scale))

    def projection(self, seen: Tensor, labels: Tensor, texts: Tensor, start: Tensor, run: Run) -> Tensor:
        """The projection `(dim, width)` after all steps, from `start`.

        `seen` `(views, support, width)` is what the tower sees before it; step i is on view i + 1, and so on in turn.
        """
        import torch
        import torch.nn.functional as F

        shots = len(labels) / len(texts)
        pull = 1 / shots if self.pull is None else self.pull
        projection = start.detach().clone().requires_grad_()
        optimiser = torch.optim.Adam([projection], lr=self.lr, eps=EPSILON)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, self.steps))
        for step in range(self.steps):
            optimiser.zero_grad(set_to_none=True)
            features = F.normalize(seen[(step + 1) % len(seen)] @ projection.T, dim=1)
            loss = F.cross_entropy(self.scale * features @ texts.T, labels)
            loss = loss + pull * (projection - start).square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            run.watch(step + 1, self.steps, loss.item())
        return projection.detach()

    def _seen(self, backbone: Backbone, support: Support, seed: int, view: int) -> Tensor:
        """What the tower sees `(support, width)` in a random crop of each image, before the projection."""
        import torch

        from fewshot_cli.engine.rng import Draws
        from fewshot_cli.engine.train.cropped import seen_in_crops

        none = torch.eye(backbone.params[PROJECTION].shape[1], device=backbone.device)
        return seen_in_crops(backbone, support, Draws(seed, "prolip", view), {PROJECTION: none})
