"""Kernel ridge regression on one-hot labels, the kernel being the cosine of two features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import COSINE_RIDGE_STRENGTH, RIDGE_SCALE
from fewshot_cli.methods.base import ClosedFormMethod

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.trust.unknown import KnownScore


class CosineRidge(ClosedFormMethod):
    """The linear layer with the least |U W - Y|² + strength |W|², Y one-hot labels, U features of length 1 each.

    It is `ridge` but that only directions count and there is no intercept. Scores of a class with fewer images than the
    mean are raised, so that uneven classes don't pull (`engine/head/cosine_ridge.py`). Weak ridges lie between the
    nearest direction, as `protonet` has it, and plain least squares.
    """

    name: Literal["cosine-ridge"] = "cosine-ridge"
    strength: float = Field(default=COSINE_RIDGE_STRENGTH, gt=0)
    scale: float = Field(default=RIDGE_SCALE, gt=0)

    def usual_sharpening(self, images: int, way: int, dim: int) -> float:
        return 0.8 * RIDGE_SCALE / self.scale

    def known_score(self, negatives: bool) -> KnownScore:
        return "energy"

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        from fewshot_cli.engine.head.cosine_ridge import cosine_ridge_head

        return cosine_ridge_head(features, labels, way, self.strength, self.scale)

    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        from fewshot_cli.engine.head.cosine_ridge import cosine_ridge_leave_one_out

        return cosine_ridge_leave_one_out(features, labels, way, self.strength, self.scale)

    def known_left_out(self, logits: Tensor, labels: Tensor) -> Tensor:
        from fewshot_cli.engine.head.cosine_ridge import weighted_as_all

        return weighted_as_all(logits, labels)
