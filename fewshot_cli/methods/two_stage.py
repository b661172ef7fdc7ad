"""2SFS: first the norms of both towers, then a classifier on what they see (CVPR 2025, arXiv:2503.11609)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from fewshot_cli.engine.defaults import TEXT_SCALE
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.methods.base import Method
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.targets import check_pattern

if TYPE_CHECKING:
    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone

AS_PUBLISHED = Optim(name="adamw", lr=2e-4, weight_decay=0.01, steps=0, steps_per_shot=300, batch=32, schedule="cosine")


class TwoStage(Method):
    """The share `first` of all steps trains what matches `targets` in both towers, against the texts' class vectors.

    The rest trains class vectors alone, which start at what the moved text tower makes of the names.
    Differs from the paper: images are augmented by DiffAugment, and the classifier compares directions.
    """

    name: Literal["2sfs"] = "2sfs"
    targets: str = r"(norm|ln_)\w*\.(weight|bias)$"
    first: float = Field(default=0.6, gt=0, lt=1)
    tuning: Tuning = Tuning(scale=TEXT_SCALE, optim=AS_PUBLISHED)

    _pattern = field_validator("targets")(check_pattern)

    @field_validator("tuning")
    @classmethod
    def _of_the_stages(cls, tuning: Tuning) -> Tuning:
        if tuning.head != Tuning.default_of("head"):
            raise ValueError(f"head = {tuning.head} would do nothing: each stage has its own, text and then cosine")
        return tuning

    @property
    def needs_text(self) -> bool:
        return True

    @property
    def text_scale(self) -> float | Literal["learned"]:
        return self.tuning.scale

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.model.model import moved_backbone
        from fewshot_cli.engine.train.fine_tune import steps_of, tune
        from fewshot_cli.engine.train.text import Texts, with_texts

        Texts.of(backbone, support)
        steps = steps_of(self.tuning.optim, support)
        before = round(self.first * steps)
        moved = Finetune(targets=self.targets, tuning=self._stage("text", before)).move(
            backbone, support, replace(run, watch=lambda step, _, loss: run.watch(step, steps, loss))
        )
        other = moved_backbone(backbone, moved.delta)
        seen = with_texts(other, support, support.texts)
        _, head = tune(
            other,
            seen,
            {},
            lambda params: {},
            self._stage("cosine", steps - before),
            replace(run, watch=lambda step, _, loss: run.watch(before + step, steps, loss)),
        )
        return Moved(moved.delta, head)

    def _stage(self, head: Literal["text", "cosine"], steps: int) -> Tuning:
        optim = self.tuning.optim.model_copy(update={"steps": steps, "epochs": 0.0, "steps_per_shot": 0})
        return self.tuning.model_copy(update={"head": head, "optim": optim})
