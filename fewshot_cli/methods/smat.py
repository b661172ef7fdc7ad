"""SMAT: sparse experts over one shared delta, mixed for each task by a router (Chen et al., 2024, ICML)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from fewshot_cli.engine.meta.smat.settings import FIXED_MASKS, LearnedMasks, Masks, SMATSettings, masks_in_section
from fewshot_cli.engine.train.schedules import FIRST_LR
from fewshot_cli.methods.meta import MetaMethod, SavedBank

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from fewshot_cli.engine.meta.episodes import TaskStep
    from fewshot_cli.engine.meta.fast_path import FastPath
    from fewshot_cli.engine.meta.featured_task import FeaturedTask
    from fewshot_cli.engine.meta.loop import Trainer
    from fewshot_cli.engine.meta.practice_task import MetaLoss
    from fewshot_cli.engine.meta.settings import FastPathChoice, Training
    from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
    from fewshot_cli.engine.meta.smat.gates import GatePasses
    from fewshot_cli.engine.meta.task_source import TaskSource
    from fewshot_cli.engine.meta.validation import TaskLearner
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.model.passes import Passes
    from fewshot_cli.engine.params import Params
    from fewshot_cli.engine.train.optimiser import Group


class SMAT(SMATSettings, MetaMethod):
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

    @property
    def learning_rates(self) -> dict[str, float]:
        return {"delta_lr": self.delta_lr, "router_lr": self.router_lr}

    def temperature(self, tasks: int) -> float:
        """The router's temperature when so many tasks have been practised on."""
        from fewshot_cli.engine.meta.smat.router import LOWEST_TEMPERATURE, START_TEMPERATURE

        fallen = (START_TEMPERATURE - LOWEST_TEMPERATURE) * tasks / self.annealing
        return max(LOWEST_TEMPERATURE, START_TEMPERATURE - fallen)

    def start(self, backbone: Backbone, seed: int) -> Params:
        import torch

        from fewshot_cli.engine.delta.masks import largest
        from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
        from fewshot_cli.engine.meta.smat.gates import fixed_logits
        from fewshot_cli.engine.meta.smat.loss import LOGITS, start_bank

        net = FlatBackbone.of(backbone)
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

    def trainer(self, bank: Params, source: TaskSource, training: Training) -> Trainer:
        from fewshot_cli.engine.data.rewards import last_matrix
        from fewshot_cli.engine.meta.episodes import EpisodeDescent, EpisodeTrainer
        from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
        from fewshot_cli.engine.meta.smat.gates import clamp_logits_
        from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, passed
        from fewshot_cli.engine.params import gradient_of

        net = FlatBackbone.of(source.backbone, source.precision)
        compared = net.layout.slices[last_matrix(source.backbone.params)]
        how = EpisodeDescent(
            groups=self.groups(bank),
            step=lambda bank: self.step(bank, net, source.fast),
            compared=lambda bank: gradient_of(bank[DELTA])[compared],
            passed=passed,
            settle_=lambda bank: clamp_logits_(bank[LOGITS]),
        )
        return EpisodeTrainer(bank, source, training, how)

    def groups(self, bank: Params) -> tuple[Group, ...]:
        """What is trained, and how: the delta, the gates' logits where they are learned, and the router."""
        from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, MULTIPLIERS, ROUTER, trained
        from fewshot_cli.engine.train.optimiser import Group

        fixed_keys = () if self.trainable_keys else (f"{ROUTER}expert_keys", f"{ROUTER}skill_tokens")
        router = tuple(name for name in trained(bank) if name.startswith(ROUTER) and name not in fixed_keys)
        size = bank[LOGITS].shape[1]
        of_delta = Group((DELTA,), "sgd", self.delta_lr, self.momentum, self.weight_decay, first_lr=FIRST_LR)
        of_router = Group(router, "adamw", self.router_lr, weight_decay=self.router_weight_decay, clip=self.router_clip)
        if not isinstance(self.masks, LearnedMasks):
            return of_delta, of_router
        of_masks = Group((LOGITS,), "sgd", self.masks.lr * size, clip=self.masks.clip, first_lr=FIRST_LR)
        of_multipliers = Group((MULTIPLIERS,), "sgd", self.masks.multiplier_lr, first_lr=FIRST_LR)
        return of_delta, of_masks, of_multipliers, of_router

    def unread(self, training: Training) -> tuple[str, ...]:
        return ()

    def fast_path(
        self, wanted: FastPathChoice, device: torch.device, warn: Callable[[str], None]
    ) -> FastPath[GatePasses] | None:
        from fewshot_cli.engine.meta.smat.fast_path import fast_path

        return fast_path(wanted, device, self.experts, warn)

    def step(self, bank: Params, net: FlatBackbone, fast: FastPath[GatePasses] | None = None) -> TaskStep:
        """What adds the gradients of tasks' losses to those of the bank."""
        from fewshot_cli.engine.meta.practice_task import MetaLoss
        from fewshot_cli.engine.meta.smat.step import SMATStep

        recorded = SMATStep(bank, net, self, fast)

        def step(task: FeaturedTask, tasks: int, rng: torch.Generator, share: float) -> MetaLoss:
            found = recorded(task, self.temperature(tasks), rng, share)
            seen = {"sparsity": found.sparsity, "router": found.routing.weights}
            return MetaLoss(found.total, found.accuracy, found.parts, found.state, seen)

        return step

    def learner(self, bank: Params, passes: Passes, tasks: int) -> TaskLearner:
        from fewshot_cli.engine.meta.smat.expert_mixer import ExpertMixer
        from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
        from fewshot_cli.engine.meta.validation import prototypes_under

        mixer, temperature = ExpertMixer.of(bank, self), self.temperature(tasks)
        net = FlatBackbone.of(passes.backbone)

        def weights(task: FeaturedTask) -> Params:
            return net.layout.views(mixer.merged(net.base, task.frozen_prototypes, temperature))

        return prototypes_under(passes, weights)

    def saved_bank(self, bank: Params, backbone: Backbone, tasks: int) -> SavedBank:
        from fewshot_cli.engine.meta.smat.gates import gates
        from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS

        z = gates(bank[LOGITS].detach(), self.evaluation_beta)
        return SavedBank(
            kind="experts",
            shapes={name: tuple(values.shape) for name, values in backbone.params.items()},
            delta=bank[DELTA],
            gates=(z >= 0.5).to(z) if self.binary else z,
            tensors={name: values for name, values in bank.items() if name not in (DELTA, LOGITS)},
            settings={"pool": self.pool, "temperature": self.temperature(tasks)},
        )
