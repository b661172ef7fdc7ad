"""Passes through a backbone with other weights: in lower precision, or in chunks that spare memory."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.params import Params


class Seeing(Protocol):
    """What sees images under other weights: a backbone, or one whose passes are done in another precision."""

    def features(self, images: Tensor, weights: Params, /) -> Tensor:
        """Features `(n, dim)` of normalised images, float32."""


@dataclass(frozen=True)
class Passes:
    """A backbone whose passes are done in `precision`, and nothing else: features are of the type of the weights."""

    backbone: Backbone
    precision: torch.dtype = torch.float32

    def features(self, images: Tensor, weights: Params, /) -> Tensor:
        """Features `(n, dim)` of normalised images, differentiable in images and weights."""
        lowered, device = self.precision != torch.float32, self.backbone.device.type
        with torch.autocast(device, dtype=self.precision if lowered else None, enabled=lowered):
            features = self.backbone.features(images, weights)
        return features.to(next(iter(weights.values()), images).dtype)


def features_in_chunks(backbone: Seeing, images: Tensor, weights: Params, chunk: int | None = None) -> Tensor:
    """Features `(n, dim)` of normalised images, differentiable in the weights.

    With a `chunk`, so many images at once: what is needed for the gradient is computed again when it is, so that memory
    does not grow with the task, at the cost of one more forward pass. The gradient is the same.
    """
    if chunk is None or len(images) <= chunk:
        return backbone.features(images, weights)
    parts = [
        checkpoint(backbone.features, part, weights, use_reentrant=False, preserve_rng_state=False)
        for part in torch.split(images, chunk)
    ]
    return torch.cat(parts)
