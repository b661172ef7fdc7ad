"""KAdaptation: a change of attention that is a sum of Kronecker products (He et al., 2023, AAAI, arXiv:2203.16329)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import Method

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.delta.change import Dense
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params

Blocks = Literal["all", "even", "last two"]


class KAdaptation(Method):
    """H = sum_k P_k (x) W_k is added to the query-key-value matrix of chosen blocks, and a vector to its bias.

    The `size` matrices P_k = l_k r_kᵀ are of rank one and shared by all blocks; W_k = U_k V_k has the given `rank` and
    is a block's own. Neither starts at zero, so that the first change is small but not nothing.
    Differs from the paper: no dropout, since the change is merged into the weight in every step.
    """

    name: Literal["kadaptation"] = "kadaptation"
    blocks: Blocks = "even"
    rank: int = Field(default=8, ge=1)
    size: int = Field(default=64, ge=1)
    tuning: Tuning = Tuning(optim=Optim(lr=1e-3, steps=40))

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        import torch

        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.delta.change import merge
        from fewshot_cli.engine.train.fine_tune import tune

        sites = attention_sites(backbone, self.blocks)
        base = {f"{site}.{part}": backbone.params[f"{site}.{part}"] for site in sites for part in ("weight", "bias")}
        rng = torch.Generator().manual_seed(run.seed)
        start = shared_factors(self.size, rng)
        for site in sites:
            outputs, inputs = base[f"{site}.weight"].shape
            check_size(backbone, self.size, inputs, outputs)
            for name, factor in own_factors(self.size, inputs, outputs, self.rank, rng).items():
                start[f"{site}/{name}"] = factor
            start[f"{site}/bias"] = torch.zeros(outputs)
        start = {name: values.to(backbone.device) for name, values in start.items()}
        trained, head = tune(
            backbone, support, start, lambda params: merge(base, self.delta(params, sites)), self.tuning, run
        )
        return Moved(self.delta(trained, sites), head)

    def delta(self, params: Params, sites: tuple[str, ...]) -> dict[str, Dense]:
        """The change of weight and bias of every site."""
        from fewshot_cli.engine.delta.change import Dense

        changes: dict[str, Dense] = {}
        for site in sites:
            h = kronecker(params["left"], params["right"], params[f"{site}/U"], params[f"{site}/V"])
            changes |= {f"{site}.weight": Dense(h.mT), f"{site}.bias": Dense(params[f"{site}/bias"])}
        return changes


def attention_sites(backbone: Backbone, blocks: Blocks) -> tuple[str, ...]:
    """The query-key-value layers of chosen blocks. Raises FewshotError for a backbone without them."""
    found = [name for name, _ in backbone.module.named_modules() if name.endswith("attn.qkv")]
    found = [name for name in found if f"{name}.bias" in backbone.params]
    if not found:
        raise FewshotError(
            f"{backbone.name} has no attention with one matrix for query, key and value.",
            "Give --backbone a vision transformer of timm, such as vit_tiny_patch16_224.",
        )
    match blocks:
        case "all":
            return tuple(found)
        case "even":
            return tuple(found[::2])
        case "last two":
            return tuple(found[-2:])


def check_size(backbone: Backbone, size: int, inputs: int, outputs: int) -> None:
    """Raises FewshotError unless Kronecker products with factors of this size make the layer's matrix."""
    if inputs % size or outputs % size:
        raise FewshotError(
            f"{size} does not divide the {inputs} inputs and {outputs} outputs of attention in {backbone.name}.",
            "Give --set method.size=N with an N that divides both.",
        )


def kronecker(left: Tensor, right: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """sum_k (left_k right_k) (x) (U_k V_k), `(inputs, outputs)`.

    `left` is `(size, size, 1)`, `right` `(size, 1, size)`, U `(size, inputs / size, rank)` and V `(size, rank, outputs
    / size)`.
    """
    import torch

    outer, inner = left @ right, u @ v
    size, rows, columns = inner.shape
    return torch.einsum("kab,kce->acbe", outer, inner).reshape(size * rows, size * columns)


def shared_factors(size: int, rng: torch.Generator) -> Params:
    """The factors of P, uniform within 0.01 of zero."""
    import torch

    shapes = {"left": (size, size, 1), "right": (size, 1, size)}
    return {name: torch.empty(shape).uniform_(-0.01, 0.01, generator=rng) for name, shape in shapes.items()}


def own_factors(size: int, inputs: int, outputs: int, rank: int, rng: torch.Generator) -> Params:
    """The factors of W, as Glorot draws them with a gain of the square root of 2."""
    import torch

    shapes = {"U": (size, inputs // size, rank), "V": (size, rank, outputs // size)}
    factors = {}
    for name, shape in shapes.items():
        bound = (12 / (shape[1] + shape[2])) ** 0.5
        factors[name] = torch.empty(shape).uniform_(-bound, bound, generator=rng)
    return factors
