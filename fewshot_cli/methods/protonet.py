"""Prototypical networks (Snell et al., 2017, arXiv:1703.05175): no training at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fewshot_cli.engine.defaults import COSINE_SCALE
from fewshot_cli.methods.base import GrowingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.head.sufficient_statistics import Moments
    from fewshot_cli.engine.trust.unknown import KnownScore


class ProtoNet(GrowingMethod):
    """Every class is the mean of its features; an image belongs to the nearest one.

    `distance: euclidean` is the paper's; `cosine` compares directions, scaled by 10, as P>M>F (arXiv:2204.07305) does.
    """

    name: Literal["protonet"] = "protonet"
    distance: Literal["cosine", "euclidean"] = "cosine"

    def usual_sharpening(self, images: int, way: int, dim: int) -> float | None:
        return 3.2 if self.distance == "cosine" else None

    def known_score(self, negatives: bool) -> KnownScore:
        return "energy" if self.distance == "cosine" and not negatives else "probability"

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        from fewshot_cli.engine.head.linear import class_means

        return self._nearest(class_means(features, labels, way))

    def grown_head(self, moments: Moments) -> Head:
        return self._nearest(moments.class_means.float())

    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        import torch

        from fewshot_cli.engine.head.linear import class_means

        # Only an image's own class changes without it: (count * mean - feature) / (count - 1).
        own = torch.arange(len(labels), device=labels.device), labels
        count = torch.bincount(labels, minlength=way)[labels].unsqueeze(1)
        prototypes = class_means(features, labels, way)
        without = (count * prototypes[labels] - features) / (count - 1).clamp(min=1)
        logits = self.head(features, labels, way).logits(features)
        logits[own] = self._similarity(features, without)
        logits[own] = logits[own].masked_fill(count.squeeze(1) == 1, -torch.inf)
        return logits

    def _nearest(self, prototypes: Tensor) -> Head:
        from fewshot_cli.engine.head.linear import cosine_head, euclidean_head

        return cosine_head(prototypes) if self.distance == "cosine" else euclidean_head(prototypes)

    def _similarity(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """The logit `(n,)` of each feature for the prototype in the same row."""
        import torch

        if self.distance == "cosine":
            return COSINE_SCALE * torch.cosine_similarity(features, prototypes, dim=1)
        return 2 * (features * prototypes).sum(1) - prototypes.square().sum(1)
