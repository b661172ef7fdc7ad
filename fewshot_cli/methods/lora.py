"""LoRA: low-rank changes of weight matrices (Hu et al., 2022, arXiv:2106.09685)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from fewshot_cli.engine.tuning_settings import Tuning
from fewshot_cli.methods.base import Method
from fewshot_cli.methods.targets import check_pattern, targeted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.backbones import Backbone
    from fewshot_cli.engine.deltas import LowRank
    from fewshot_cli.engine.types import Moved, Params, Run, Support


class LoRA(Method):
    """W + factor B A for every targeted matrix, A `(rank, in)` drawn, B `(out, rank)` zero at the start.

    timm keeps query, key and value in one matrix; `parts` gives each of those named a pair (A, B) of its own, as LoRA
    on separate projections has. A convolution's kernel counts as the matrix (out, in x height x width).
    `factor` is alpha / rank, or alpha / sqrt(rank) as CLIP-LoRA (arXiv:2405.18541) and rsLoRA have it.
    Differs from the paper: no dropout on the input of A, since the change is merged into the weight in every step.
    """

    name: Literal["lora"] = "lora"
    targets: str = r"attn\.qkv\.weight$|conv_pwl?\.weight$"
    parts: tuple[Literal["q", "k", "v"], ...] = Field(default=("q", "v"), min_length=1)
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=8.0, gt=0)
    scaling: Literal["alpha/rank", "alpha/sqrt(rank)"] = "alpha/rank"
    tuning: Tuning = Tuning()

    _pattern = field_validator("targets")(check_pattern)

    @property
    def factor(self) -> float:
        return self.alpha / (self.rank if self.scaling == "alpha/rank" else math.sqrt(self.rank))

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        import torch

        from fewshot_cli.engine.deltas import merge
        from fewshot_cli.engine.tuning import tune
        from fewshot_cli.engine.types import Moved

        base = targeted(backbone, self.targets, min_dims=2)
        start = self.start(base, torch.Generator().manual_seed(run.seed))
        trained, head = tune(
            backbone, support, start, lambda params: merge(base, self.delta(params, base)), self.tuning, run
        )
        return Moved(self.delta(trained, base), head)

    def start(self, base: Params, rng: torch.Generator) -> Params:
        """A and B of every block of rows, under "NAME/block/A" and "NAME/block/B": together they change nothing yet."""
        import torch

        params: Params = {}
        for name, weight in base.items():
            columns = weight[0].numel()
            for block, rows in self._blocks(name, weight):
                bound = 1 / math.sqrt(columns)  # kaiming_uniform(a=sqrt(5)), the published initialisation
                a = torch.empty(min(self.rank, columns), columns).uniform_(-bound, bound, generator=rng)
                params[f"{name}/{block}/A"] = a.to(weight)
                params[f"{name}/{block}/B"] = torch.zeros(len(rows), len(a)).to(weight)
        return params

    def delta(self, params: Params, base: Params) -> dict[str, LowRank]:
        """The change of every matrix: its blocks' factors side by side, each reaching only its own rows."""
        import torch

        from fewshot_cli.engine.deltas import LowRank

        changes = {}
        for name, weight in base.items():
            blocks = self._blocks(name, weight)
            lefts = [_placed(self.factor * params[f"{name}/{block}/B"], rows, len(weight)) for block, rows in blocks]
            rights = [params[f"{name}/{block}/A"] for block, _ in blocks]
            changes[name] = LowRank(tuple(weight.shape), torch.cat(lefts, dim=1), torch.cat(rights))
        return changes

    def _blocks(self, name: str, weight: Tensor) -> list[tuple[str, range]]:
        if "qkv" not in name:
            return [("all", range(len(weight)))]
        third = len(weight) // 3
        return [(part, range("qkv".index(part) * third, ("qkv".index(part) + 1) * third)) for part in self.parts]


def _placed(block: Tensor, rows: range, height: int) -> Tensor:
    """`block` as the given rows of an otherwise zero matrix `(height, rank)`."""
    import torch

    return torch.nn.functional.pad(block, (0, 0, rows.start, height - rows.stop))
