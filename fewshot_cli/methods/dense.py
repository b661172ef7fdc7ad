"""Dense meta-tuning: every weight of the backbone moves. The M of P>M>F, and FOMAML."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.meta.settings import InnerLoop
from fewshot_cli.methods.meta import EpisodicMethod, Learned, MetaLoss, TaskStep

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.meta.prototype_loss import Outcome
    from fewshot_cli.engine.meta.smat.loss import FeaturedTask
    from fewshot_cli.engine.model.flat_params import FlatBackbone
    from fewshot_cli.engine.params import Params
    from fewshot_cli.engine.train.optimiser import Group


class Dense(EpisodicMethod):
    """Prototypical networks meta-trained from pre-trained weights (Hu et al., 2022, arXiv:2204.07305), SGD with
    momentum on all weights and on the scale of the cosine, which is of use in training only."""

    name: Literal["dense"] = "dense"
    lr: float = Field(default=5e-5, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    """Pulls towards zero, not towards the pre-trained weights; P>M>F has none."""
    clip: float | None = Field(default=None, gt=0)

    def start(self, net: FlatBackbone, seed: int) -> Params:
        from fewshot_cli.engine.meta import prototype_loss as meta_losses

        return meta_losses.start(net.backbone)

    def groups(self, bank: Params) -> tuple[Group, ...]:
        from fewshot_cli.engine.train.optimiser import Group

        return (Group(tuple(bank), "sgd", self.lr, self.momentum, self.weight_decay, self.clip),)

    def step(self, bank: Params, net: FlatBackbone) -> TaskStep:
        def step(task: FeaturedTask, tasks: int, rng: torch.Generator, share: float) -> MetaLoss:
            outcome = self.outcome(bank, net, task)
            (share * outcome.loss).backward()  # type: ignore[no-untyped-call]
            loss = outcome.loss.detach()
            return MetaLoss(loss, outcome.accuracy, {"query_ce": loss})

        return step

    def outcome(self, bank: Params, net: FlatBackbone, task: FeaturedTask) -> Outcome:
        from fewshot_cli.engine.meta import prototype_loss as meta_losses

        return meta_losses.prototype_loss(bank, net.passes, task)

    def compared(self, bank: Params, net: FlatBackbone) -> Tensor:
        from fewshot_cli.engine.data.rewards import last_matrix

        gradient = bank[last_matrix(net.backbone.params)].grad
        assert gradient is not None
        return gradient.flatten()

    def weights(self, bank: Params, net: FlatBackbone, tasks: int) -> Callable[[Tensor], Tensor]:
        same = net.layout.flatten(bank).detach()
        return lambda prototypes: same

    def learned(self, bank: Params, net: FlatBackbone, tasks: int) -> Learned:
        return Learned(net.layout.flatten(bank).detach() - net.base)


class FOMAML(Dense):
    """First-order MAML with a head that starts at the prototypes (Finn et al., 2017, arXiv:1703.03400; Triantafillou et
    al., 2020, arXiv:1903.03096): the loss on the queries after a few steps on the support set."""

    name: Literal["fomaml"] = "fomaml"  # type: ignore[assignment]
    inner: InnerLoop = InnerLoop()

    def outcome(self, bank: Params, net: FlatBackbone, task: FeaturedTask) -> Outcome:
        from fewshot_cli.engine.meta import prototype_loss as meta_losses

        return meta_losses.fomaml_loss(bank, net.passes, task, self.inner)
