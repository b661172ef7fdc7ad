"""Class vectors that a text tower makes of texts, with their gradient, while a batch of images comes in parts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import FittedHead, Support
from fewshot_cli.engine.head.linear import Head, cosine_head
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.train.settings import Tuning
from fewshot_cli.errors import FewshotError


@torch.no_grad()
def with_texts(backbone: Backbone, support: Support, texts: tuple[tuple[str, ...], ...]) -> Support:
    """The task with texts of its classes and their class vectors; unchanged where the backbone reads no texts."""
    if not isinstance(backbone, TwoTowers):
        return support
    return replace(support, texts=texts, vectors=backbone.class_vectors(texts))


def two_towers(backbone: Backbone) -> TwoTowers:
    """The backbone, which reads texts. Raises FewshotError where it reads none."""
    if not isinstance(backbone, TwoTowers):
        raise FewshotError(
            f"This recipe takes the names of the classes for knowledge, and {backbone.name} has no text tower.",
            "Give --backbone clip:MODEL/TAG, such as clip:ViT-B-16/openai.",
        )
    return backbone


def scale_at_start(backbone: Backbone, tuning: Tuning) -> float:
    """What cosines are multiplied by when training starts: where it is learned, what the two towers do."""
    return two_towers(backbone).scale if isinstance(tuning.scale, str) else tuning.scale


def named_head(vectors: Tensor, scale: float | Literal["learned"], beside: FittedHead) -> Head:
    """The head of classes that only texts tell of, with vectors `(way, dim)`; a learned scale is that of `beside`."""
    if isinstance(scale, str):
        assert isinstance(beside, Head)
        scale = float(beside.weight.double().norm(dim=-1).mean())
    return cosine_head(vectors, scale)


@dataclass(frozen=True)
class Texts:
    """The texts of each class, and the text tower that reads them."""

    backbone: TwoTowers
    of_classes: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, backbone: Backbone, support: Support) -> "Texts":
        """Those of a task. Raises FewshotError where the backbone reads none, or the classes have no names."""
        towers = two_towers(backbone)
        if not support.texts:
            raise FewshotError("The classes have no names that a text tower could read.", "Name the folders.")
        return cls(towers, support.texts)

    def vectors(self, weights: Mapping[str, Tensor]) -> "TextVectors":
        """The class vectors under these weights."""
        made = self.backbone.class_vectors(self.of_classes, weights)
        return TextVectors(made, made.detach().requires_grad_(made.requires_grad))


@dataclass(frozen=True)
class TextVectors:
    """Class vectors `(way, dim)`, and a copy of them that gathers the gradients of all parts of a batch."""

    made: Tensor
    leaf: Tensor

    def rest(self) -> Tensor:
        """A zero with the gradient that came together at the copy, so that texts are read once for a whole batch."""
        assert self.leaf.grad is not None
        through = (self.made * self.leaf.grad).sum()
        return through - through.detach()
