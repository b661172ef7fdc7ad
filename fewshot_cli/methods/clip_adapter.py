"""CLIP-Adapter: two layers after the image tower, blended with what it sees (Gao et al., 2024, arXiv:2110.04544)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.methods.base import GraftSettings, Method

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params

DOWN, UP = "down", "up"


class Blend(GraftSettings):
    """share · ReLU(ReLU(f A) B) + (1 - share) · f, for features f; A makes them `reduction` times shorter."""

    name: Literal["feature adapter"] = "feature adapter"
    share: float = Field(default=0.2, gt=0, le=1)
    reduction: int = Field(default=4, ge=1, le=4096)

    @property
    def why_not_merged(self) -> str:
        return "two layers with a ReLU follow the features, which no change of the weights before them does"

    def shapes(self, sites: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
        from fewshot_cli.engine.model.timm_models import feature_dim

        if list(sites) != [""]:
            raise ValueError("an adapter of the features hangs on the backbone itself")
        dim = feature_dim(sites[""])
        inner = max(1, dim // self.reduction)
        return {DOWN: (inner, dim), UP: (dim, inner)}

    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        import torch.nn.functional as F

        adapted = F.relu(F.linear(F.relu(F.linear(outputs, params[DOWN])), params[UP]))
        return self.share * adapted + (1 - self.share) * outputs


class CLIPAdapter(Method):
    """An adapter of the features, trained against the texts' class vectors, which stay.

    All images are in every step, by their plain features; Adam, its rate falling along half a cosine.
    Differs from the paper: the released code has no schedule, and its authors search `share` for each data set.
    """

    name: Literal["clip-adapter"] = "clip-adapter"
    share: float = Field(default=0.2, gt=0, le=1)
    reduction: int = Field(default=4, ge=1, le=4096)
    lr: float = Field(default=1e-3, gt=0)
    steps: int = Field(default=200, ge=0)
    scale: float = Field(default=TEXT_SCALE, gt=0)

    @property
    def needs_text(self) -> bool:
        return True

    @property
    def text_scale(self) -> float:
        return self.scale

    @property
    def kind(self) -> Blend:
        """The graft that it trains."""
        return Blend(share=self.share, reduction=self.reduction)

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.grafts import Graft
        from fewshot_cli.engine.head.linear import cosine_head
        from fewshot_cli.engine.train.settings import Optim
        from fewshot_cli.engine.train.text import Texts
        from fewshot_cli.engine.train.train import fit

        Texts.of(backbone, support)
        support = support.in_order()
        assert support.vectors is not None
        optim = Optim(name="adam", lr=self.lr, steps=self.steps, schedule="cosine")
        params = fit(lambda now, step: [self.loss(now, support)], self.start(backbone, run.seed), optim, run.watch)
        return Moved({}, cosine_head(support.vectors, self.scale), Graft(self.kind, ("",), params))

    def start(self, backbone: Backbone, seed: int) -> Params:
        """A and B as torch's linear layers begin."""
        import torch

        rng = torch.Generator().manual_seed(seed)
        shapes = self.kind.shapes({"": backbone.module})
        drawn = {name: torch.rand(shape, generator=rng) for name, shape in shapes.items()}
        return {
            name: ((2 * values - 1) * values.shape[1] ** -0.5).to(backbone.device) for name, values in drawn.items()
        }

    def loss(self, params: Params, support: Support) -> Tensor:
        """The cross-entropy of scale x cosine of the adapted features and the texts."""
        import torch.nn.functional as F

        seen = self.kind.output("", params, support.features, support.features)
        logits = self.scale * F.normalize(seen, dim=1) @ F.normalize(support.vectors, dim=1).T  # type: ignore[arg-type]
        return F.cross_entropy(logits, support.labels)
