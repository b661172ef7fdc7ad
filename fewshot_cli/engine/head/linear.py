"""Heads: from features to logits. One linear layer, perhaps on unit-norm features, serves every method.

Whatever is computed here is computed for one task, or for many of one shape at once: axes before the last ones, written
`...`, are tasks.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.defaults import COSINE_SCALE


@dataclass(frozen=True)
class Head:
    """Linear layers: `weight` `(..., way, dim)`, `bias` `(..., way)` on unit-norm features where `unit_norm` is set."""

    weight: Tensor
    bias: Tensor
    unit_norm: bool

    def logits(self, features: Tensor) -> Tensor:
        """Logits `(..., n, way)` of features `(..., n, dim)`."""
        features = F.normalize(features, dim=-1) if self.unit_norm else features
        if self.weight.ndim == 2:  # what timm computes, to the bit; it knows no stacks
            return F.linear(features, self.weight, self.bias)
        return features @ self.weight.mT + self.bias.unsqueeze(-2)

    @property
    def dim(self) -> int:
        """The number of features that the head takes."""
        return self.weight.shape[-1]

    def sharpened(self, factor: float) -> "Head":
        """The head whose logits are `factor` times as large: the same answers, other probabilities."""
        return replace(self, weight=self.weight * factor, bias=self.bias * factor)

    def to(self, device: torch.device) -> "Head":
        """The head on the device."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))


def class_means(features: Tensor, labels: Tensor, way: int) -> Tensor:
    """Prototypes `(..., way, dim)`: the mean feature of every class. A class without an image gets zeros.

    An image whose label is not in [0, way) is in no class.
    """
    members = (labels.unsqueeze(-1) == torch.arange(way, device=labels.device)).to(features.dtype)
    return members.mT @ features / members.sum(-2).clamp(min=1).unsqueeze(-1)


def cosine_head(prototypes: Tensor, scale: float = COSINE_SCALE) -> Head:
    """The head whose logits are `scale` x the cosine of feature and prototype (P>M>F, arXiv:2204.07305)."""
    return Head(scale * F.normalize(prototypes, dim=-1), prototypes.new_zeros(prototypes.shape[:-1]), unit_norm=True)


def euclidean_head(prototypes: Tensor) -> Head:
    """The head that ranks classes by distance to their prototype (Snell et al., 2017, arXiv:1703.05175).

    -|f - c|² = 2 f·c - |c|² - |f|²; the last term is the same for every class, so logits drop it.
    """
    return Head(2 * prototypes, -prototypes.square().sum(-1), unit_norm=False)


def typical_norm(features: Tensor) -> Tensor:
    """The power of two `(...)`, float64, nearest to the root mean square norm of features `(..., n, dim)`.

    Dividing by it makes one regularisation strength serve every backbone, and unlike a norm of its own for each image
    it leaves a linear head linear. A power of two, since it is then nearly always the same when an image is left out.
    """
    return power_of_two_near(features.double().square().sum(-1).mean(-1).sqrt())


def typical_norms_without_each(features: Tensor) -> Tensor:
    """The typical norm `(n,)`, float64, of the features `(n, dim)` without each of them."""
    squares = features.double().square().sum(-1)
    others = (squares.sum() - squares).clamp(min=0) / max(1, len(squares) - 1)
    return power_of_two_near(others.sqrt())


def power_of_two_near(values: Tensor) -> Tensor:
    """The powers of two nearest to positive values, on a logarithmic scale."""
    return 2 ** values.clamp(min=1e-12).log2().round()
