"""Transductive heads: they answer about all queries of a task at once, from the support set that they keep."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor


class Answering(Protocol):
    """The part of a transductive method that answers; its settings are those of a recipe."""

    def model_dump(self) -> dict[str, Any]:
        """The settings, with the method's name."""

    def answers(self, features: Tensor, labels: Tensor, way: int, queries: Tensor) -> Tensor:
        """Logits `(n, way)` of queries `(n, dim)`, given the support set's features `(support, dim)` and labels."""


@dataclass(frozen=True)
class TransductiveHead:
    """A head that looks at all queries before it answers about any.

    `features` `(support, dim)` and `labels` `(support,)` are the support set; logits are `factor` times the method's.
    """

    method: Answering
    features: Tensor
    labels: Tensor
    way: int
    factor: float = 1.0

    @property
    def dim(self) -> int:
        """The number of features that the head takes."""
        return self.features.shape[1]

    def logits(self, features: Tensor) -> Tensor:
        """Logits `(n, way)` of features `(n, dim)`, which are all that is asked about."""
        if not len(features):
            return features.new_zeros(0, self.way)
        return self.factor * self.method.answers(self.features, self.labels, self.way, features)

    def sharpened(self, factor: float) -> "TransductiveHead":
        """The head whose logits are `factor` times as large."""
        return replace(self, factor=self.factor * factor)

    def to(self, device: torch.device) -> "TransductiveHead":
        """The head with its support set on the device."""
        return replace(self, features=self.features.to(device), labels=self.labels.to(device))
