"""TSA: task-specific adapters (Li, Liu and Bilen, 2022, CVPR, arXiv:2107.00358), which are learned from scratch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.methods.base import GraftSettings, Method
from fewshot_cli.methods.targets import check_pattern, targeted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.delta.change import Dense
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params

MAP = "map"
FIRST = 1e-4
"""What adapters start at, on the diagonal."""


class FeatureMap(GraftSettings):
    """A linear map of the features, the same for all classes, before a head compares directions."""

    name: Literal["feature map"] = "feature map"

    @property
    def why_not_merged(self) -> str:
        return "a linear map follows the backbone, before the cosine of its head (method.map=false learns none)"

    def shapes(self, sites: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
        from fewshot_cli.engine.model.timm_models import feature_dim

        if list(sites) != [""]:
            raise ValueError("a map of the features hangs on the backbone itself")
        dim = feature_dim(sites[""])
        return {MAP: (dim, dim)}

    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        return outputs @ params[MAP].mT


class TSA(Method):
    """A matrix added beside each chosen layer, which is a change of its weight, and a linear map of the features.

    A convolution gets it as one of 1 x 1 beside it, which adds to the centre of its kernel: `form: matrix` to all
    pairs of channels, `vector` to each channel's own, where the layer has as many outputs as inputs. Trained on the
    whole support set by Adadelta, against prototypes with their gradient, without augmentation.
    `tuning.optim.lr` is that of the adapters, 0.5 for a domain that the backbone has not seen and 0.05 for one that it
    has; `map_lr` multiplies it for the map. Differs from the paper: other backbones than its ResNets have their
    depthwise convolutions or attention's output matrices adapted, which is a port of ours.
    """

    name: Literal["tsa"] = "tsa"
    targets: str = r"layer\d\.\d+\.conv\d\.weight$|conv_dw\.weight$|attn\.proj\.weight$"
    form: Literal["matrix", "vector"] = "matrix"
    map: bool = True
    """Whether the map of the features is learned; without it the answer is a delta and merges."""
    map_lr: float = Field(default=2.0, ge=0)
    tuning: Tuning = Tuning(head="prototypes", augment=0.0, optim=Optim(name="adadelta", lr=0.5, steps=40, batch=None))

    _pattern = field_validator("targets")(check_pattern)

    @field_validator("map_lr")
    @classmethod
    def _of_the_map(cls, map_lr: float, given: ValidationInfo) -> float:
        if given.data.get("map") is False:
            cls.idle(map_lr, given, "`map: false` learns no map")
        return map_lr

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.delta.change import merge
        from fewshot_cli.engine.grafts import Graft, holder_names
        from fewshot_cli.engine.model.model import grafted
        from fewshot_cli.engine.train.fine_tune import tune

        base = {name: weight for name, weight in targeted(backbone, self.targets, min_dims=2).items() if _fits(weight)}
        start = {name: self._first(weight) for name, weight in base.items()}
        learner, names = backbone, {}
        if self.map:
            first = {MAP: _eye(backbone.dim, backbone.dim).to(backbone.device)}
            names = holder_names(first)
            learner = grafted(backbone, ("",), first, FeatureMap().output)
            start |= first

        def weights(params: Params) -> dict[str, Tensor]:
            return merge(base, self.delta(params, base)) | {key: params[name] for name, key in names.items()}

        trained, head = tune(learner, support, start, weights, self.tuning, run, lr_scale={f"^{MAP}$": self.map_lr})
        graft = Graft(FeatureMap(), ("",), {MAP: trained.pop(MAP)}) if self.map else None
        return Moved(self.delta(trained, base), head, graft)

    def _first(self, weight: Tensor) -> Tensor:
        outputs, inputs = weight.shape[:2]
        if inputs == 1 < outputs:  # a depthwise convolution: each channel has its own kernel
            return weight.new_full((outputs, 1), FIRST)
        if self.form == "vector" and outputs == inputs:
            return weight.new_full((outputs,), FIRST)
        return FIRST * _eye(outputs, inputs).to(weight)

    def delta(self, params: Params, base: Params) -> dict[str, Dense]:
        """The change of every weight: what is trained, at the centre of its kernel."""
        import torch.nn.functional as F

        from fewshot_cli.engine.delta.change import Dense

        changes = {}
        for name, weight in base.items():
            added = params[name].diag() if params[name].ndim == 1 else params[name]
            if weight.ndim == 4:
                rows, columns = weight.shape[2] // 2, weight.shape[3] // 2
                added = F.pad(added[:, :, None, None], (columns, columns, rows, rows))
            changes[name] = Dense(added)
        return changes


def _fits(weight: Tensor) -> bool:
    """Whether it is a matrix, or has kernels with a centre beside which a convolution of 1 x 1 is another thing."""
    return weight.ndim == 2 or (weight.ndim == 4 and all(side > 1 and side % 2 for side in weight.shape[2:]))


def _eye(rows: int, columns: int) -> Tensor:
    import torch

    return torch.eye(rows, columns)
