"""Ridge regression on one-hot labels, a linear probe in closed form (R2-D2, Bertinetto et al., arXiv:1805.08136)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.defaults import RIDGE_SCALE, RIDGE_STRENGTH
from fewshot_cli.methods.base import GrowingMethod, MarkingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.head.sufficient_statistics import Moments
    from fewshot_cli.engine.trust.unknown import KnownScore


class Ridge(GrowingMethod, MarkingMethod):
    """The linear layer with the least |X W + b - Y|² + strength |W|², Y one-hot labels, X features of typical norm 1.

    Differs from R2-D2: nothing is meta-learned, and the intercept b is free. Logits are the scores times `scale`;
    `adapt` then fits one temperature, so `scale` only matters where there is too little to fit it on.
    """

    name: Literal["ridge"] = "ridge"
    strength: float = Field(default=RIDGE_STRENGTH, gt=0)
    scale: float = Field(default=RIDGE_SCALE, gt=0)

    def usual_sharpening(self, images: int, way: int, dim: int) -> float:
        return 1.06 * RIDGE_SCALE / self.scale

    def known_score(self, negatives: bool) -> KnownScore:
        return "energy"

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        from fewshot_cli.engine.head.ridge import ridge_head

        return ridge_head(features, labels, way, self.strength, self.scale)

    def grown_head(self, moments: Moments) -> Head:
        from fewshot_cli.engine.head.ridge import grown_ridge_head

        return grown_ridge_head(moments, self.strength, self.scale)

    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        from fewshot_cli.engine.head.ridge import ridge_leave_one_out

        return ridge_leave_one_out(features, labels, way, self.strength, self.scale)

    def marks_head(self, features: Tensor, marks: Tensor) -> Head:
        from fewshot_cli.engine.head.ridge import marks_head

        return marks_head(features, marks, self.strength, scale=1)

    def marks_left_out(self, features: Tensor, marks: Tensor) -> Tensor:
        from fewshot_cli.engine.head.ridge import marks_leave_one_out

        return marks_leave_one_out(features, marks, self.strength)
