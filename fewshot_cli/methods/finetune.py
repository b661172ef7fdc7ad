"""Fine-tuning of chosen parameters: all of them, the biases, the norms, the last block, attention.

Full: P>M>F's last stage (Hu et al., CVPR 2022, arXiv:2204.07305).
Biases: BitFit (Ben Zaken et al., 2022, arXiv:2106.10199).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from fewshot_cli.engine.defaults import COSINE_SCALE
from fewshot_cli.engine.train.settings import Tuning
from fewshot_cli.methods.base import Method
from fewshot_cli.methods.targets import check_pattern, targeted

if TYPE_CHECKING:
    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params


BIASES = "bias$"
USUAL_SHARPENING = 1.35


class Finetune(Method):
    """Trains every parameter whose timm name matches `targets`, a regular expression, and the head.

    `{last}` in it stands for the number of the backbone's last block or stage. Batch-norm statistics stay frozen.
    Differs from P>M>F by default: the class vectors are trained along in batches, rather than recomputed from the whole
    support set in each step, so that a large folder costs no more; recipe `pmf` does it P>M>F's way.
    """

    name: Literal["finetune"] = "finetune"
    targets: str = "."
    tuning: Tuning = Tuning()

    _pattern = field_validator("targets")(check_pattern)

    def usual_sharpening(self, images: int, way: int, dim: int) -> float | None:
        """That of trained biases, a little more than 1 since held-out answers know less (`benchmarks/budget.py`)."""
        if self.targets != BIASES or self.tuning.head != "cosine" or isinstance(self.tuning.scale, str):
            return None
        return USUAL_SHARPENING * COSINE_SCALE / self.tuning.scale

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.delta.change import Dense
        from fewshot_cli.engine.train.fine_tune import tune

        base = targeted(backbone, self.targets, with_text=self.tuning.head == "text")
        trained, head = tune(backbone, support, base, lambda params: _backbone_part(params, base), self.tuning, run)
        return Moved({name: Dense(values - base[name]) for name, values in trained.items()}, head)


def _backbone_part(params: Params, base: Params) -> Params:
    return {name: params[name] for name in base}
