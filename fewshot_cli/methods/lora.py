"""LoRA: low-rank changes of weight matrices (Hu et al., 2022, arXiv:2106.09685)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.train.settings import Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import Method
from fewshot_cli.methods.targets import check_pattern, targeted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.delta.change import LowRank
    from fewshot_cli.engine.model.attention import Rows
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params


class LoRA(Method):
    """W + factor B A for every targeted matrix, A `(rank, in)` drawn, B `(out, rank)` zero at the start.

    Without `targets` these are attention's projections that `parts` names, where the backbone has attention; else all
    convolutions in its body that are not grouped, and all linear layers. A pattern names weights outright.
    Where one matrix makes query, key and value, each of the `parts` gets a pair (A, B) of its own, as LoRA on separate
    projections has. A convolution's kernel counts as the matrix (out, in x height x width).
    `factor` is alpha / rank, or alpha / sqrt(rank) as CLIP-LoRA (arXiv:2405.18541) and rsLoRA have it.
    Block-LoRA (Zhou et al., 2025, arXiv:2501.16720) shares A between `up_blocks` B. These start alike and get one
    gradient, so that this is LoRA of rank / `up_blocks` with a B that moves `up_blocks` times as far in a step.
    Differs from the paper: no dropout on the input of A, since the change is merged into the weight in every step.
    """

    name: Literal["lora"] = "lora"
    targets: str | None = None
    parts: tuple[Literal["q", "k", "v"], ...] = Field(default=("q", "v"), min_length=1)
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=8.0, gt=0)
    scaling: Literal["alpha/rank", "alpha/sqrt(rank)"] = "alpha/rank"
    up_blocks: int = Field(default=1, ge=1)
    """So many B share one A of rank / `up_blocks`, and are added up, as Block-LoRA has it."""
    tuning: Tuning = Tuning()

    @field_validator("up_blocks")
    @classmethod
    def _divides_the_rank(cls, up_blocks: int, given: ValidationInfo) -> int:
        if (rank := given.data.get("rank", up_blocks)) % up_blocks:
            raise ValueError(f"does not divide the rank {rank}")
        return up_blocks

    _pattern = field_validator("targets")(check_pattern)

    @property
    def factor(self) -> float:
        """What the product of both matrices is multiplied by."""
        return self.alpha / (self.rank if self.scaling == "alpha/rank" else math.sqrt(self.rank))

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        import torch

        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.delta.change import merge
        from fewshot_cli.engine.model.attention import projections
        from fewshot_cli.engine.model.matrices import low_rank_targets
        from fewshot_cli.engine.train.fine_tune import tune

        with_text = self.tuning.head == "text"
        rows = projections(backbone.module)
        if self.targets is None:
            base = low_rank_targets(backbone, rows, self.parts, with_text)
        else:
            base = targeted(backbone, self.targets, min_dims=2, with_text=with_text)
        blocks = {name: self._blocks(len(weight), rows.get(name, {})) for name, weight in base.items()}
        base = {name: weight for name, weight in base.items() if blocks[name]}
        if not base:
            raise FewshotError(
                f"What matches the targets '{self.targets}' in {backbone.name} makes none of {', '.join(self.parts)}.",
                "Change --set method.parts or --set method.targets.",
            )
        start = self.start(base, blocks, torch.Generator().manual_seed(run.seed))
        trained, head = tune(
            backbone, support, start, lambda params: merge(base, self.delta(params, base, blocks)), self.tuning, run
        )
        return Moved(self.delta(trained, base, blocks), head)

    def start(self, base: Params, blocks: Mapping[str, Rows], rng: torch.Generator) -> Params:
        """A and B of every block of rows, under "NAME/block/A" and "NAME/block/B": together they change nothing yet."""
        import torch

        params: Params = {}
        for name, weight in base.items():
            columns = weight[0].numel()
            for block, rows in blocks[name].items():
                bound = 1 / math.sqrt(columns)  # kaiming_uniform(a=sqrt(5)), the published initialisation
                rank = min(self.rank // self.up_blocks, columns)
                a = torch.empty(rank, columns).uniform_(-bound, bound, generator=rng)
                params[f"{name}/{block}/A"] = a.to(weight)
                for up in self._ups(f"{name}/{block}"):
                    params[up] = torch.zeros(len(rows), len(a)).to(weight)
        return params

    def delta(self, params: Params, base: Params, blocks: Mapping[str, Rows]) -> dict[str, LowRank]:
        """The change of every matrix: its blocks' factors side by side, each reaching only its own rows."""
        import torch

        from fewshot_cli.engine.delta.change import LowRank

        changes = {}
        for name, weight in base.items():
            parts = blocks[name].items()
            ups = {part: torch.stack([params[up] for up in self._ups(f"{name}/{part}")]).sum(0) for part, _ in parts}
            lefts = [_placed(self.factor * ups[part], rows, len(weight)) for part, rows in parts]
            rights = [params[f"{name}/{part}/A"] for part, _ in parts]
            changes[name] = LowRank(tuple(weight.shape), torch.cat(lefts, dim=1), torch.cat(rights))
        return changes

    def _ups(self, block: str) -> list[str]:
        """What B is called, or are."""
        return [f"{block}/B"] if self.up_blocks == 1 else [f"{block}/B{i}" for i in range(self.up_blocks)]

    def _blocks(self, height: int, rows: Rows) -> Rows:
        """The rows of each pair of factors: those of `parts` where the matrix makes several of q, k and v, else all."""
        import torch

        if len(rows) > 1:
            return {part: rows[part] for part in self.parts if part in rows}
        return {"all": torch.arange(height)}


def _placed(block: Tensor, rows: Tensor, height: int) -> Tensor:
    """`block` as the given rows of an otherwise zero matrix `(height, rank)`."""
    return block.new_zeros(height, block.shape[1]).index_copy(0, rows.to(block.device), block)
