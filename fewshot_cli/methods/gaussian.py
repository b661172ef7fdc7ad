"""Gaussian classes of one covariance, estimated without a setting: GDA (Wang et al., 2024, ICLR) without its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fewshot_cli.methods.base import GrowingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from fewshot_cli.engine.head.linear import Head
    from fewshot_cli.engine.head.sufficient_statistics import Moments
    from fewshot_cli.engine.trust.unknown import KnownScore


class Gaussian(GrowingMethod):
    """logit_c(f) = fᵀ P μ_c - ½ μ_cᵀ P μ_c, with P the shrunk inverse of the covariance around the class means.

    How much it shrinks follows from the trace (Kubokawa and Srivastava, 2008), so that nothing is to be set. With one
    image of each class it is the nearest mean. It is `lda` with `covariance: within` but for the shrinkage.
    Differs from the paper: no text takes part, features keep their norm, and no views of the images are added.
    """

    name: Literal["gaussian"] = "gaussian"

    def usual_sharpening(self, images: int, way: int, dim: int) -> float:
        return 3 * images / (way * dim)

    def known_score(self, negatives: bool) -> KnownScore:
        return "probability"

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        from fewshot_cli.engine.head.gaussian import gaussian_head

        return gaussian_head(features, labels, way)

    def grown_head(self, moments: Moments) -> Head:
        from fewshot_cli.engine.head.gaussian import grown_gaussian_head

        return grown_gaussian_head(moments)

    def leave_one_out(self, features: Tensor, labels: Tensor, way: int) -> Tensor:
        from fewshot_cli.engine.head.gaussian import gaussian_leave_one_out

        return gaussian_leave_one_out(features, labels, way)
