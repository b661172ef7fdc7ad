"""SMAT: sparse experts over one shared delta, mixed for each task by a router (Chen et al., 2024, ICML)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fewshot_cli.engine.meta.settings import FIXED_MASKS, LearnedMasks, Masks, SMATSettings, masks_in_section
from fewshot_cli.engine.train.schedules import FIRST_LR
from fewshot_cli.methods.meta import EpisodicMethod, Learned, MetaLoss, TaskStep

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.meta.smat.loss import FeaturedTask
    from fewshot_cli.engine.model.flat_params import FlatBackbone
    from fewshot_cli.engine.params import Params
    from fewshot_cli.engine.train.optimiser import Group


class SMAT(SMATSettings, EpisodicMethod):
    """Sparse MetA-Tuning. Learning rates and decays are the published ones for ViT-S; `SMATSettings` is the loss.

    Differs from the release where that has faults: keys and skill tokens are trained and saved (`trainable_keys`),
    multipliers are saved, the router reads all prototypes (`pool`), and the gates in use are those of training
    (`evaluation_beta`), rounded to 0 or 1 (`binary`).
    """

    name: Literal["smat"] = "smat"
    masks: Masks = LearnedMasks()
    """A section of how they are learned. `random` and `magnitude` (of the pre-trained weights, the same for every
    expert) are masks of the same density that never change, to compare with."""
    delta_lr: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    """Of the delta: it pulls towards the pre-trained weights."""
    router_lr: float = Field(default=1e-4, ge=0)
    router_weight_decay: float = Field(default=1e-2, ge=0)
    router_clip: float = Field(default=1.0, gt=0)
    trainable_keys: bool = True
    """Whether the experts' keys and the skill tokens are trained; in the release they are not, by a slip."""
    annealing: int = Field(default=18000, ge=1)
    """Tasks in which the router's temperature falls from 5 to 0.5."""

    @model_validator(mode="before")
    @classmethod
    def _former(cls, given: Any) -> Any:
        return masks_in_section(given) if isinstance(given, dict) else given

    @field_validator("masks")
    @classmethod
    def _fixed(cls, masks: Any, given: ValidationInfo) -> Any:
        if masks in FIXED_MASKS and given.data.get("binary") is False:
            raise ValueError(f"{masks} masks are 0 or 1, so that `binary: false` would do nothing")
        return masks

    def temperature(self, tasks: int) -> float:
        """The router's temperature when so many tasks have been practised on."""
        from fewshot_cli.engine.meta.smat.router import LOWEST_TEMPERATURE, START_TEMPERATURE

        fallen = (START_TEMPERATURE - LOWEST_TEMPERATURE) * tasks / self.annealing
        return max(LOWEST_TEMPERATURE, START_TEMPERATURE - fallen)

    def start(self, net: FlatBackbone, seed: int) -> Params:
        import torch

        from fewshot_cli.engine.delta.masks import largest
        from fewshot_cli.engine.meta.smat.gates import fixed_logits
        from fewshot_cli.engine.meta.smat.loss import LOGITS, start_bank

        bank = start_bank(net, self, seed)
        match self.masks:
            case LearnedMasks():
                return bank
            case "random":
                rng = torch.Generator().manual_seed(seed)
                scores = torch.rand(self.experts, net.layout.size, generator=rng).to(net.base.device)
            case "magnitude":
                scores = net.base.abs().expand(self.experts, -1)
        count = round((1 - self.sparsity) * net.layout.size)
        return bank | {LOGITS: torch.stack([fixed_logits(largest(row, count), len(row)) for row in scores])}

    def groups(self, bank: Params) -> tuple[Group, ...]:
        from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, MULTIPLIERS, ROUTER, trained
        from fewshot_cli.engine.train.optimiser import Group

        fixed_keys = () if self.trainable_keys else (f"{ROUTER}expert_keys", f"{ROUTER}skill_tokens")
        router = tuple(name for name in trained(bank) if name.startswith(ROUTER) and name not in fixed_keys)
        size = bank[LOGITS].shape[1]
        of_delta = Group((DELTA,), "sgd", self.delta_lr, self.momentum, self.weight_decay)
        of_router = Group(router, "adamw", self.router_lr, weight_decay=self.router_weight_decay, clip=self.router_clip)
        if not isinstance(self.masks, LearnedMasks):
            return of_delta, of_router
        of_masks = Group((LOGITS,), "sgd", self.masks.lr * size, clip=self.masks.clip)
        return of_delta, of_masks, Group((MULTIPLIERS,), "sgd", self.masks.multiplier_lr), of_router

    def first_lr(self, group: Group) -> float:
        return 0.0 if group.optimiser == "adamw" else FIRST_LR

    def step(self, bank: Params, net: FlatBackbone) -> TaskStep:
        from fewshot_cli.engine.meta.smat.step import SMATStep

        recorded = SMATStep(bank, net, self)

        def step(task: FeaturedTask, tasks: int, rng: torch.Generator, share: float) -> MetaLoss:
            found = recorded(task, self.temperature(tasks), rng, share)
            seen = {"sparsity": found.sparsity, "router": found.routing.weights}
            return MetaLoss(found.total, found.accuracy, found.parts, found.state, seen)

        return step

    def passed(self, bank: Params) -> Params:
        from fewshot_cli.engine.meta.smat.loss import passed

        return passed(bank)

    def settle_(self, bank: Params) -> None:
        from fewshot_cli.engine.meta.smat.gates import clamp_logits_
        from fewshot_cli.engine.meta.smat.loss import LOGITS

        clamp_logits_(bank[LOGITS])

    def compared(self, bank: Params, net: FlatBackbone) -> Tensor:
        from fewshot_cli.engine.data.rewards import last_matrix
        from fewshot_cli.engine.meta.smat.loss import DELTA

        gradient = bank[DELTA].grad
        assert gradient is not None
        return gradient[net.layout.slices[last_matrix(net.backbone.params)]]

    def weights(self, bank: Params, net: FlatBackbone, tasks: int) -> Callable[[Tensor], Tensor]:
        from fewshot_cli.engine.meta.smat.loss import Library

        library, temperature = Library.of(bank, self), self.temperature(tasks)
        return lambda prototypes: library.merged(net.base, prototypes, temperature)

    def learned(self, bank: Params, net: FlatBackbone, tasks: int) -> Learned:
        from fewshot_cli.engine.meta.smat.gates import gates
        from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS

        others = {name: values for name, values in bank.items() if name not in (DELTA, LOGITS)}
        router: dict[str, Any] = {"pool": self.pool, "temperature": self.temperature(tasks)}
        z = gates(bank[LOGITS].detach(), self.evaluation_beta)
        return Learned(bank[DELTA], (z >= 0.5).to(z) if self.binary else z, others, router)
