"""Dense meta-tuning: every weight of the backbone moves. The M of P>M>F, and FOMAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.meta.settings import InnerLoop
from fewshot_cli.methods.meta import MetaMethod, SavedBank

if TYPE_CHECKING:
    import torch

    from fewshot_cli.engine.meta.episodes import TaskStep
    from fewshot_cli.engine.meta.featured_task import FeaturedTask
    from fewshot_cli.engine.meta.loop import Trainer
    from fewshot_cli.engine.meta.practice_task import MetaLoss
    from fewshot_cli.engine.meta.prototype_loss import Outcome
    from fewshot_cli.engine.meta.settings import Training
    from fewshot_cli.engine.meta.task_source import TaskSource
    from fewshot_cli.engine.meta.validation import TaskLearner
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.model.passes import Passes
    from fewshot_cli.engine.params import Params


class DenseMetaTuning(MetaMethod):
    """Prototypical networks meta-trained from pre-trained weights (Hu et al., 2022, arXiv:2204.07305), SGD with
    momentum on all weights and on the scale of the cosine, which is of use in training only."""

    name: Literal["dense"] = "dense"
    lr: float = Field(default=5e-5, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    """Pulls towards zero, not towards the pre-trained weights; P>M>F has none."""
    clip: float | None = Field(default=None, gt=0)

    @property
    def learning_rates(self) -> dict[str, float]:
        return {"lr": self.lr}

    def start(self, backbone: Backbone, seed: int) -> Params:
        from fewshot_cli.engine.meta import prototype_loss

        return prototype_loss.start(backbone)

    def trainer(self, bank: Params, source: TaskSource, training: Training) -> Trainer:
        from fewshot_cli.engine.data.rewards import last_matrix
        from fewshot_cli.engine.meta.episodes import EpisodeDescent, EpisodeTrainer
        from fewshot_cli.engine.meta.practice_task import MetaLoss
        from fewshot_cli.engine.params import gradient_of
        from fewshot_cli.engine.train.optimiser import Group, add_gradients

        compared = last_matrix(source.backbone.params)

        def step(bank: Params) -> TaskStep:
            def of_task(task: FeaturedTask, tasks: int, rng: torch.Generator, share: float) -> MetaLoss:
                backbone, images = source.backbone, len(task.support_labels) + len(task.query_labels)

                def in_chunks(chunk: int) -> MetaLoss:
                    outcome = self.outcome(bank, source.passes, task, chunk)
                    add_gradients(share * outcome.loss, bank)
                    loss = outcome.loss.detach()
                    return MetaLoss(loss, outcome.accuracy, {"query_ce": loss})

                what = f"of a task through {backbone.name}, with a gradient"
                return backbone.trained_limit.tried(in_chunks, images, backbone.device, what)

            return of_task

        how = EpisodeDescent(
            groups=(Group(tuple(bank), "sgd", self.lr, self.momentum, self.weight_decay, self.clip),),
            step=step,
            compared=lambda bank: gradient_of(bank[compared]).flatten(),
        )
        return EpisodeTrainer(bank, source, training, how)

    def outcome(self, bank: Params, passes: Passes, task: FeaturedTask, chunk: int) -> Outcome:
        """The loss of a task, differentiable in the bank, with so many images at a time."""
        from fewshot_cli.engine.meta.prototype_loss import prototype_loss

        return prototype_loss(bank, passes, task, chunk)

    def learner(self, bank: Params, passes: Passes, tasks: int) -> TaskLearner:
        from fewshot_cli.engine.meta.prototype_loss import weights_of
        from fewshot_cli.engine.meta.validation import prototypes_under

        weights = weights_of(bank)
        return prototypes_under(passes, lambda task: weights)

    def saved_bank(self, bank: Params, backbone: Backbone, tasks: int) -> SavedBank:
        return moved_weights(bank, backbone)


def moved_weights(bank: Params, backbone: Backbone) -> SavedBank:
    """A bank that is the same change of the backbone's weights, all or some, for every task."""
    from fewshot_cli.engine.model.flat_params import Layout

    base = {name: values for name, values in backbone.params.items() if name in bank}
    layout = Layout.of(base)
    delta = layout.flatten(bank).detach() - layout.flatten(base)
    return SavedBank("dense", dict(zip(layout.names, layout.shapes, strict=True)), delta)


class FOMAML(DenseMetaTuning):
    """First-order MAML with a head that starts at the prototypes (Finn et al., 2017, arXiv:1703.03400; Triantafillou et
    al., 2020, arXiv:1903.03096): the loss on the queries after a few steps on the support set."""

    name: Literal["fomaml"] = "fomaml"  # type: ignore[assignment]
    inner: InnerLoop = InnerLoop()

    def outcome(self, bank: Params, passes: Passes, task: FeaturedTask, chunk: int) -> Outcome:
        from fewshot_cli.engine.meta.prototype_loss import fomaml_loss

        return fomaml_loss(bank, passes, task, self.inner, chunk)
