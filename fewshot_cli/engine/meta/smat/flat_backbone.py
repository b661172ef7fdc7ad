"""A backbone whose weights are one vector, on which SMAT's masks are one pass."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.flat_params import Layout
from fewshot_cli.engine.model.passes import Passes, features_in_chunks


@dataclass(frozen=True)
class FlatBackbone:
    """A backbone whose weights are one vector: `base` `(size,)` are its own.

    With `precision` torch.bfloat16 its passes are done under autocast, and only they. A `chunk` has so many images go
    through at once, and spares memory at the cost of time.
    """

    backbone: Backbone
    layout: Layout
    base: Tensor = field(repr=False)
    precision: torch.dtype = torch.float32
    chunk: int | None = None

    @classmethod
    def of(cls, backbone: Backbone, precision: torch.dtype = torch.float32) -> "FlatBackbone":
        """The backbone with all its weights in one vector `(size,)`."""
        layout = Layout.of(backbone.params)
        return cls(backbone, layout, layout.flatten(backbone.params), precision)

    def features(self, images: Tensor, weights: Tensor) -> Tensor:
        """Features `(n, dim)` of normalised images under the flat weights `(size,)`, differentiable in both."""
        return features_in_chunks(self.passes, images, self.layout.views(weights), self.chunk)

    @property
    def passes(self) -> Passes:
        """The backbone in this precision, for weights by name."""
        return Passes(self.backbone, self.precision)
