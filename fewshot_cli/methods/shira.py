"""SHiRA: sparse high-rank adapters (Bhardwaj et al., NeurIPS 2024, arXiv:2406.13175)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from fewshot_cli.engine.train.settings import Tuning
from fewshot_cli.methods.base import Method
from fewshot_cli.methods.targets import check_pattern, targeted

if TYPE_CHECKING:
    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.delta.masks import Positions
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params


class SHiRA(Method):
    """Trains `density` of the values of each targeted matrix, at positions that a rule fixes before training.

    Rules: `magnitude` (WM, the largest weights), `gradient` (the largest task gradients), `snip` (the largest |weight x
    gradient|), `random` (Rand), `rows` (Struct, every f-th row and the diagonal). The calibration set of the paper's
    gradient rules is the support set. Every matrix of the backbone is a candidate; the paper takes some projections of
    a language model, which `targets` can say.
    """

    name: Literal["shira"] = "shira"
    mask: Literal["magnitude", "gradient", "snip", "random", "rows"] = "snip"
    density: float = Field(default=0.01, gt=0, le=1)
    targets: str = r"weight$"
    tuning: Tuning = Tuning()

    _pattern = field_validator("targets")(check_pattern)

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        from fewshot_cli.methods.sparse import tune_positions

        base = targeted(backbone, self.targets, min_dims=2, with_text=self.tuning.head == "text")
        return tune_positions(backbone, support, base, self._positions(backbone, support, base, run), self.tuning, run)

    def _positions(self, backbone: Backbone, support: Support, base: Params, run: Run) -> Positions:
        from fewshot_cli.engine.delta.masks import largest_in_each, random_positions, structured_positions
        from fewshot_cli.methods.sparse import task_gradient

        match self.mask:
            case "random":
                chosen = {
                    name: random_positions(run.seed, name, w.numel(), math.ceil(self.density * w.numel()))
                    for name, w in base.items()
                }
            case "rows":
                chosen = {n: structured_positions(len(w), w[0].numel(), self.density) for n, w in base.items()}
            case "magnitude":
                chosen = largest_in_each({name: weight.abs() for name, weight in base.items()}, self.density)
            case "gradient" | "snip":
                gradient = task_gradient(backbone, support, base, self.tuning)
                scores = {n: (base[n] * g if self.mask == "snip" else g).abs() for n, g in gradient.items()}
                chosen = largest_in_each(scores, self.density)
        return {name: positions.to(backbone.device) for name, positions in chosen.items()}
