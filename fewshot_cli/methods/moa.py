"""Mixture-of-Adapters (Lee et al., 2025, WACV, arXiv:2310.11031): every token takes one of four adapters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationInfo, field_validator

from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.methods.base import GraftSettings, Method
from fewshot_cli.methods.kadaptation import (
    Blocks,
    attention_sites,
    check_size,
    kronecker,
    own_factors,
    shared_factors,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from fewshot_cli.engine.adaptation import Moved, Run, Support
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params
    from fewshot_cli.engine.train.objectives import Part

NOISE = 0.25
"""The standard deviation of the noise on a router's logits in training: one over the number of published adapters."""
MOST_SCALE = math.log(100)


class TokenMixture(GraftSettings):
    """On a linear layer: y + g · (the winning adapter's change of x), g the probability that the router gives it.

    Adapters are LoRA (B A x) or sums of Kronecker products (x H, and a bias that all tokens get), one of each rank.
    The router compares directions: softmax of scale x cosine of W x + b with a vector for each adapter.
    """

    name: Literal["token mixture"] = "token mixture"
    form: Literal["kronecker", "lora"] = "kronecker"
    ranks: tuple[int, ...] = Field(default=(1, 2, 4, 8), min_length=2, max_length=64)
    size: int = Field(default=64, ge=1, le=4096)
    router: int = Field(default=256, ge=1, le=4096)

    @property
    def why_not_merged(self) -> str:
        return "each token chooses its own adapter, so that no one change of the weights does the same"

    def shapes(self, sites: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        if self.form == "kronecker":
            shapes |= {"left": (self.size, self.size, 1), "right": (self.size, 1, self.size)}
        for site, layer in sites.items():
            outputs, inputs = _shape(site, layer)
            shapes |= {
                f"{site}/router/W": (self.router, inputs),
                f"{site}/router/b": (self.router,),
                f"{site}/router/S": (self.router, len(self.ranks)),
                f"{site}/router/t": (),
            }
            if self.form == "kronecker":
                if inputs % self.size or outputs % self.size:
                    raise ValueError(f"{self.size} does not divide the shape of {site}")
                shapes[f"{site}/bias"] = (outputs,)
            for i, rank in enumerate(self.ranks):
                shapes |= self._expert(f"{site}/{i}", inputs, outputs, rank)
        return shapes

    def _expert(self, name: str, inputs: int, outputs: int, rank: int) -> dict[str, tuple[int, ...]]:
        if self.form == "lora":
            return {f"{name}/A": (rank, inputs), f"{name}/B": (outputs, rank)}
        rows, columns = inputs // self.size, outputs // self.size
        return {f"{name}/U": (self.size, rows, rank), f"{name}/V": (self.size, rank, columns)}

    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        probabilities = self.router_logits(site, params, inputs).softmax(-1)
        return self.mixed(site, params, inputs, outputs, probabilities)

    def router_logits(self, site: str, params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits `(..., adapters)` of tokens `(..., inputs)`, without noise."""
        import torch.nn.functional as F

        h = F.linear(inputs, params[f"{site}/router/W"], params[f"{site}/router/b"])
        scale = params[f"{site}/router/t"].clamp(max=MOST_SCALE).exp()
        return scale * (F.normalize(h, dim=-1) @ F.normalize(params[f"{site}/router/S"], dim=0))

    def mixed(
        self,
        site: str,
        params: Mapping[str, Tensor],
        inputs: Tensor,
        outputs: Tensor,
        probabilities: Tensor,
        dropout: float = 0.0,
    ) -> Tensor:
        """The layer's outputs with what the winner of `probabilities` `(..., adapters)` adds, at its probability."""
        import torch.nn.functional as F

        gates = probabilities * F.one_hot(probabilities.argmax(-1), len(self.ranks)).to(probabilities.dtype)
        for i in range(len(self.ranks)):
            outputs = outputs + gates[..., i : i + 1] * self._change(f"{site}/{i}", params, inputs, dropout)
        return outputs + params[f"{site}/bias"] if self.form == "kronecker" else outputs

    def _change(self, name: str, params: Mapping[str, Tensor], inputs: Tensor, dropout: float) -> Tensor:
        import torch.nn.functional as F

        if self.form == "lora":
            return F.linear(F.linear(inputs, params[f"{name}/A"]), params[f"{name}/B"])
        h = kronecker(params["left"], params["right"], params[f"{name}/U"], params[f"{name}/V"])
        return inputs @ (F.dropout(h, dropout) if dropout else h)


class MoA(Method):
    """Adapters of several ranks beside attention's query-key-value layer; a router sends every token through one.

    Training adds noise to the router's logits and the balancing loss of `balance`, which keeps all adapters in use.
    Published with Kronecker products in every second block, or LoRA: `form: lora`, `blocks: last two`, `balance: 0`.
    Differs from the paper: the head is a cosine head, trained along in the support set's own batches.
    """

    name: Literal["moa"] = "moa"
    form: Literal["kronecker", "lora"] = "kronecker"
    blocks: Blocks = "even"
    ranks: tuple[int, ...] = Field(default=(1, 2, 4, 8), min_length=2, max_length=64)
    size: int = Field(default=64, ge=1, le=4096)
    """Of the shared Kronecker factors."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """The share of the values of a Kronecker change that a step leaves out."""
    router: int = Field(default=256, ge=1, le=4096)
    """The dimensions in which the router compares directions."""
    balance: float = Field(default=0.01, ge=0)
    """The weight of the balancing loss."""
    tuning: Tuning = Tuning(optim=Optim(lr=1e-3, steps=40))

    @field_validator("size", "dropout")
    @classmethod
    def _of_kronecker(cls, value: float, given: ValidationInfo) -> float:
        if given.data.get("form") == "lora":
            cls.idle(value, given, "`form: lora` has no Kronecker products")
        return value

    @property
    def kind(self) -> TokenMixture:
        """The graft that it trains."""
        return TokenMixture(form=self.form, ranks=self.ranks, size=self.size, router=self.router)

    def move(self, backbone: Backbone, support: Support, run: Run) -> Moved:
        import torch

        from fewshot_cli.engine.adaptation import Moved
        from fewshot_cli.engine.grafts import Graft, holder_names, sites_of
        from fewshot_cli.engine.model.model import grafted
        from fewshot_cli.engine.train.fine_tune import tune

        sites = attention_sites(backbone, self.blocks)
        start = self.start(backbone, sites_of(backbone.module, sites), run.seed)
        training = _Training(self, torch.Generator().manual_seed(run.seed + 1))
        names = holder_names(start)
        with torch.random.fork_rng(devices=[]):  # dropout draws from torch's own generator
            torch.manual_seed(run.seed)
            trained, head = tune(
                grafted(backbone, sites, start, training.output),
                support,
                start,
                lambda params: {key: params[name] for name, key in names.items()},
                self.tuning,
                run,
                also=(training.balance,) if self.balance else (),
                forget=training.losses.clear,
            )
        return Moved({}, head, Graft(self.kind, sites, trained))

    def start(self, backbone: Backbone, sites: Mapping[str, nn.Module], seed: int) -> Params:
        """The graft's parameters before training: with LoRA they change nothing yet."""
        import torch

        rng = torch.Generator().manual_seed(seed)
        params = shared_factors(self.size, rng) if self.form == "kronecker" else {}
        for site, layer in sites.items():
            outputs, inputs = _shape(site, layer)
            bound = inputs**-0.5  # as torch begins linear layers
            params |= {
                f"{site}/router/W": torch.empty(self.router, inputs).uniform_(-bound, bound, generator=rng),
                f"{site}/router/b": torch.empty(self.router).uniform_(-bound, bound, generator=rng),
                f"{site}/router/S": 0.01 * torch.randn(self.router, len(self.ranks), generator=rng),
                f"{site}/router/t": torch.tensor(math.log(2)),
            }
            if self.form == "kronecker":
                check_size(backbone, self.size, inputs, outputs)
                params[f"{site}/bias"] = torch.zeros(outputs)
            for i, rank in enumerate(self.ranks):
                if self.form == "kronecker":
                    factors = own_factors(self.size, inputs, outputs, rank, rng)
                else:
                    factors = {"A": torch.randn(rank, inputs, generator=rng) / rank, "B": torch.zeros(outputs, rank)}
                params |= {f"{site}/{i}/{name}": factor for name, factor in factors.items()}
        return {name: values.to(backbone.device) for name, values in params.items()}


@dataclass(eq=False)
class _Training:
    """A mixture as it is trained: with noise and dropout, and with the balancing losses that passes have left."""

    method: MoA
    rng: torch.Generator
    losses: list[Tensor] = field(default_factory=list)

    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        import torch

        kind = self.method.kind
        if not torch.is_grad_enabled():  # nobody learns from this pass
            return kind.output(site, params, inputs, outputs)
        logits = kind.router_logits(site, params, inputs)
        noise = torch.randn(logits.shape, generator=self.rng).to(logits)
        noisy = (logits + NOISE * noise).softmax(-1)
        if self.method.balance:
            self.losses.append(balancing_loss(logits.softmax(-1), noisy))
        dropout = self.method.dropout if self.method.form == "kronecker" else 0.0
        return kind.mixed(site, params, inputs, outputs, noisy, dropout)

    def balance(self, features: Tensor, params: Params, part: Part, rng: torch.Generator) -> Tensor:
        """The objective: what the passes since the last time have left."""
        losses = self.losses.copy()
        self.losses.clear()
        return self.method.balance * part.share * sum(losses, start=features.new_zeros(()))


def balancing_loss(plain: Tensor, noisy: Tensor) -> Tensor:
    """Half the squared coefficients of variation of importance and load, which are 0 where all adapters are used alike.

    `plain` and `noisy` `(..., adapters)` are the router's probabilities without and with noise. An adapter's importance
    is the sum of the former; its load is how many tokens might choose it, were the noise drawn anew.
    """
    import torch

    plain, most = plain.flatten(0, -2), noisy.flatten(0, -2).amax(-1, keepdim=True)
    load = torch.special.ndtr((plain - most) / NOISE)
    return 0.5 * (_variation(plain.sum(0)) + _variation(load.sum(0)))


def _variation(values: Tensor) -> Tensor:
    """The squared coefficient of variation."""
    return values.var() / (values.mean().square() + 1e-10)


def _shape(site: str, layer: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer; raises ValueError where it is none."""
    weight = getattr(layer, "weight", None)
    if weight is None or weight.ndim != 2:
        raise ValueError(f"{site} is no linear layer")
    outputs, inputs = weight.shape
    return int(outputs), int(inputs)
