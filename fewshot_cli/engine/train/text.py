"""Class vectors that a text tower makes of texts, with their gradient, while a batch of images comes in parts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.towers import TwoTowers
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
