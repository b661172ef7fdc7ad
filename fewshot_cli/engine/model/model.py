"""The adapted model, from pictures to logits: a backbone, the changes that a method learned, and a head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Support
from fewshot_cli.engine.delta.change import Delta, merge, on_device
from fewshot_cli.engine.grafts import Graft, Output, hung
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.params import Params


def merged_weights(backbone: Backbone, delta: Delta) -> Params:
    """Those of the backbone's weights that the delta moves, moved."""
    return merge({name: backbone.params[name] for name in delta}, on_device(delta, backbone.device))


def moved_backbone(backbone: Backbone, delta: Delta, graft: Graft | None = None) -> Backbone:
    """The backbone with the delta added to its weights, and the graft hung into a copy of its module."""
    moved = backbone.moved(merged_weights(backbone, delta)) if delta else backbone
    if graft is None:
        return moved
    params = graft.to(backbone.device).params
    grown = grafted(moved, graft.sites, params, graft.kind.output)
    return replace(grown, dim=graft.kind.width(moved.dim))


def grafted(backbone: Backbone, sites: Sequence[str], params: Mapping[str, Tensor], output: Output) -> Backbone:
    """The backbone with a graft in a copy of its module; `holder_names` says how passes can replace its parameters.

    All its passes are done where the module is.
    """
    return replace(backbone, module=hung(backbone.module, sites, params, output), twin=None)


@dataclass(frozen=True)
class Model:
    """A backbone with what was learned on it."""

    backbone: Backbone
    adapted: Adapted

    @cached_property
    def moved(self) -> Backbone:
        """The backbone as the delta and the graft leave it."""
        return moved_backbone(self.backbone, self.adapted.delta, self.adapted.graft)

    @property
    def weights(self) -> Params:
        """Those of the backbone's weights that the delta moves, moved."""
        return {name: self.moved.params[name] for name in self.adapted.delta}

    def features(self, pictures: Tensor) -> Tensor:
        """Features `(n, dim)` of uint8 pictures `(n, 3, height, width)`."""
        return self.moved.frozen_features(pictures)

    def features_of(self, asked: Support) -> Tensor:
        """Features `(n, dim)` of the pictures of a set, whose own `features` are those of the unmoved backbone."""
        return self.features(asked.pictures()) if self.adapted.moves else asked.features

    def answers(self, features: Tensor) -> Tensor:
        """Logits `(n, way)` of features `(n, dim)`, which are all that is asked about: some heads look at all first."""
        return self.adapted.head.to(features.device).logits(features)

    def logits(self, pictures: Tensor) -> Tensor:
        """Logits `(n, way)` of uint8 pictures `(n, 3, height, width)`."""
        return self.answers(self.features(pictures))

    def logits_of(self, asked: Support) -> Tensor:
        """Logits `(n, way)` of the pictures of a set."""
        return self.answers(self.features_of(asked))
