"""SAFT: train the few weights whose task gradient is largest (Nguyen et al., ECCV 2024, arXiv:2407.03036)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from fewshot_cli.engine.train.settings import Tuning
from fewshot_cli.methods.base import Method
from fewshot_cli.methods.targets import check_pattern, targeted

if TYPE_CHECKING:
    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone


class SAFT(Method):
    """Trains the `density` of all targeted values with the largest |mean gradient| of the task, over the whole network.

    The gradient is that of the un-augmented support set at the pre-trained weights, against prototypes as the head.
    The abstract's density is 0.001. The paper's code is not public; what it leaves open is settled as the field does:
    one global ranking, the magnitude of the mean, every parameter a candidate.
    """

    name: Literal["saft"] = "saft"
    density: float = Field(default=0.001, gt=0, le=1)
    targets: str = "."
    tuning: Tuning = Tuning()

    _pattern = field_validator("targets")(check_pattern)

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.engine.delta.masks import largest_anywhere
        from fewshot_cli.methods.sparse import task_gradient, tune_positions

        base = targeted(backbone, self.targets, with_text=self.tuning.head == "text")
        scores = {
            name: gradient.abs() for name, gradient in task_gradient(backbone, support, base, self.tuning).items()
        }
        return tune_positions(backbone, support, base, largest_anywhere(scores, self.density), self.tuning, run)
