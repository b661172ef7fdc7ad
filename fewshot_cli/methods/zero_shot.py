"""Zero-shot classification by the names of the classes (Radford et al., 2021, ICML, arXiv:2103.00020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.methods.base import TextHead

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head


class ZeroShot(TextHead):
    """Every class is the mean direction of its texts; an image belongs to the nearest one. Images teach it nothing.

    `scale` multiplies the cosine; a text and an image are rarely alike, so that it is large.
    """

    name: Literal["zero-shot"] = "zero-shot"
    scale: float = Field(default=TEXT_SCALE, gt=0)

    @property
    def text_scale(self) -> float:
        return self.scale

    def with_text(self, features: Tensor, labels: Tensor, texts: Tensor) -> Head:
        from fewshot_cli.engine.head.linear import cosine_head

        return cosine_head(texts, self.scale)
