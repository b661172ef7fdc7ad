"""Kinds of bank: how a task is learned from what meta-tuning left in a file.

A kind is a `BankContent` in `BANK_KINDS`, under the name that a meta-method's `SavedBank` has. Jobs ask it for two
things: how it moves the backbone for every task alike, and the learner that goes on from there.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Run, Support
from fewshot_cli.engine.defaults import RouterPool
from fewshot_cli.engine.delta.change import Delta, delta_of
from fewshot_cli.engine.head.linear import class_means
from fewshot_cli.engine.meta.smat.expert_mixer import ExpertMixer
from fewshot_cli.engine.meta.smat.loss import router_of
from fewshot_cli.engine.meta.smat.packed_gates import PackedGates, pruned
from fewshot_cli.engine.meta.smat.router import folded, start_router
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.names import SCALE
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.model.flat_params import Layout
from fewshot_cli.engine.model.model import moved_backbone
from fewshot_cli.engine.params import total_size
from fewshot_cli.engine.settings import Settings
from fewshot_cli.engine.train.text import two_towers
from fewshot_cli.engine.trust.unknown import KnownScore
from fewshot_cli.methods.base import Learner
from fewshot_cli.methods.meta import SavedBank

LARGEST_LOG_SCALE = 20.0
"""A bank may be anybody's: beyond this its scale is taken for damage. CLIP's own is e^4.6."""


class BankContent(ABC):
    """What a bank of one kind does for a task, on the backbone that it is of."""

    @classmethod
    @abstractmethod
    def of(cls, kept: SavedBank, backbone: Backbone) -> "BankContent":
        """The content of a file, which may be anybody's. Raises ValueError that says what does not fit."""

    def delta(self, density: float | None) -> Delta:
        """How it moves the backbone whatever the task; nothing, unless it says otherwise.

        Of the backbone's weights at most the share `density` is moved, those moved furthest; None moves all.
        """
        return {}

    def moved(self, backbone: Backbone, density: float | None) -> tuple[Backbone, Delta]:
        """The backbone as `delta` moves it, and that delta."""
        delta = self.delta(density)
        return moved_backbone(backbone, delta), delta

    def learner(self, learner: Learner, density: float | None) -> Learner:
        """How a task is learned by a recipe on the backbone that `delta` moved.

        Raises FewshotError where this recipe can't begin from such a bank.
        """
        return learner


@dataclass(frozen=True, eq=False)
class DenseContent(BankContent):
    """One change for every task: of dense meta-tuning, FOMAML and MAMF."""

    layout: Layout
    change: Tensor
    size: int
    """The number of the backbone's weights."""
    scale: float | None = None
    """What cosines with texts are multiplied by, where that was learned."""

    @classmethod
    def of(cls, kept: SavedBank, backbone: Backbone) -> "DenseContent":
        assert kept.delta is not None
        scale = _scale_of(kept, backbone)
        return cls(layout_of(kept), kept.delta.to(backbone.device), total_size(backbone.params), scale)

    def moved(self, backbone: Backbone, density: float | None) -> tuple[Backbone, Delta]:
        moved, delta = super().moved(backbone, density)
        return (moved if self.scale is None else replace(two_towers(moved), scale=self.scale)), delta

    def delta(self, density: float | None) -> Delta:
        change = self.change
        if density is not None:
            change = pruned(change, share_kept(density, self.size, self.layout))
        return delta_of(self.layout.views(change))


@dataclass(frozen=True, eq=False)
class ExpertsContent(BankContent):
    """Sparse experts over one delta, mixed anew for each task at this temperature (SMAT)."""

    mixer: ExpertMixer
    layout: Layout
    temperature: float

    @classmethod
    def of(cls, kept: SavedBank, backbone: Backbone) -> "ExpertsContent":
        assert kept.delta is not None and kept.gates is not None
        try:
            settings = _RouterSettings.model_validate(kept.settings)
        except ValidationError:
            raise ValueError("its header does not say how the router pools, and at what temperature") from None
        device = backbone.device
        router = {name: values.to(device) for name, values in router_of(kept.tensors).items()}
        _check_router(router, backbone.dim, len(kept.gates))
        packed = PackedGates.of_gates(kept.gates.to(device))
        mixer = ExpertMixer(kept.delta.to(device), packed, folded(router), settings.pool)
        return cls(mixer, layout_of(kept), settings.temperature)

    def learner(self, learner: Learner, density: float | None) -> Learner:
        return FromBank(learner, self.mixer, self.layout, self.temperature, density)


BANK_KINDS: dict[str, type[BankContent]] = {"dense": DenseContent, "experts": ExpertsContent}
"""By the name in a bank's header."""


def layout_of(kept: SavedBank) -> Layout:
    """The order in which a bank has the weights that it changes."""
    return Layout(tuple(kept.shapes), tuple(kept.shapes.values()))


@dataclass(frozen=True)
class FromBank(Learner):
    """The method on the backbone as the bank's experts move it for the task; what both add is one delta.

    The experts are mixed by the frozen backbone's prototypes of the support set, so whatever is held out of it takes no
    part. `layout` is the order in which the mixer has the weights. Of its change only the largest values are kept, as
    many as are the share `density` of all the backbone's; None keeps all.
    """

    method: Learner
    mixer: ExpertMixer
    layout: Layout
    temperature: float
    density: float | None = None

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        delta = self.delta(backbone, support)
        if not delta:
            return self.method.adapt(backbone, support, run)
        moved = moved_backbone(backbone, delta)
        features = moved.frozen_features(support.pictures())
        return self.method.adapt(moved, replace(support, features=features), run).after(delta)

    def known_score(self, negatives: bool) -> KnownScore:
        return self.method.known_score(negatives)

    def delta(self, backbone: Backbone, support: Support) -> Delta:
        """How the bank moves the backbone for the task."""
        prototypes = class_means(support.features, support.labels, support.way)
        change = self.mixer.change(prototypes, self.temperature)
        if self.density is not None:
            change = pruned(change, share_kept(self.density, total_size(backbone.params), self.layout))
        return delta_of(self.layout.views(change))


def _scale_of(kept: SavedBank, backbone: Backbone) -> float | None:
    """The learned scale of a bank, if it has one. Raises ValueError where it is none."""
    if SCALE not in kept.tensors:
        return None
    logarithm = kept.tensors[SCALE]
    if logarithm.numel() != 1 or abs(float(logarithm)) > LARGEST_LOG_SCALE or not isinstance(backbone, TwoTowers):
        raise ValueError(f"its {SCALE} is not the logarithm of a scale of two towers")
    return math.exp(logarithm.item())


def share_kept(density: float, size: int, layout: Layout) -> float:
    """The share of the layout's weights that is the share `density` of all `size` weights; all, where it has fewer."""
    return min(1.0, density * (size / layout.size))


class _RouterSettings(Settings):
    """What a bank's header says of its router, besides what only those need who train it."""

    model_config = ConfigDict(extra="ignore")

    pool: RouterPool
    temperature: float = Field(gt=0)


def _check_router(router: Mapping[str, Tensor], dim: int, experts: int) -> None:
    wanted = {name: (values.shape, values.dtype) for name, values in start_router(dim, experts, seed=0).items()}
    if {name: (values.shape, values.dtype) for name, values in router.items()} != wanted:
        raise ValueError(f"its router is none for {experts} experts of a backbone with {dim} features")
