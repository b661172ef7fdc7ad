"""SMAT's router: from the prototypes of a task to the weights of the experts.

Prototypes of the frozen backbone and four learned skill tokens go through one transformer block without positions; what
comes out at the prototypes is pooled into an embedding e of the task, and expert m's logit is its key times e.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.defaults import RouterPool
from fewshot_cli.engine.params import Params

HEADS = 4
MLP_RATIO = 2
SKILL_TOKENS = 4
START_TEMPERATURE, LOWEST_TEMPERATURE = 5.0, 0.5
TASKS_PER_DEGREE = 4000  # seen while the temperature falls by one

Noise: TypeAlias = torch.Generator | Tensor
"""What samples the experts' weights: a generator on the CPU, or what `logistic_noise` drew with it beforehand, which
spares a GPU the wait for a copy."""


@dataclass(frozen=True)
class Routing:
    """What the router makes of a task: its embedding `(dim,)`, logits and weights `(experts,)`, which add up to 1."""

    embedding: Tensor
    logits: Tensor
    weights: Tensor


def start_router(dim: int, experts: int, seed: int) -> Params:
    """A router to start meta-tuning from; `dim`, the length of the features, is a multiple of 4.

    All is trained and saved but the names that end in ".u" and ".v": those are the state of the power iteration, saved
    and not trained. (In the published code keys and skill tokens are neither, by a slip.)
    """
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(shape, generator=rng) * std

    linear = {
        "block.attn.qkv": (3 * dim, dim),
        "block.attn.proj": (dim, dim),
        "block.mlp.fc1": (MLP_RATIO * dim, dim),
        "block.mlp.fc2": (dim, MLP_RATIO * dim),
    }
    router = {
        "expert_keys": normal(experts, dim, std=math.sqrt(2 / dim)),
        "skill_tokens": normal(SKILL_TOKENS, dim, std=1e-3),
    }
    for norm in ("block.norm1", "block.norm2"):
        router |= {f"{norm}.weight": torch.ones(dim), f"{norm}.bias": torch.zeros(dim)}
    for name, (rows, columns) in linear.items():
        router[f"{name}.weight"] = normal(rows, columns, std=0.02)
        if name != "block.attn.qkv":
            router[f"{name}.bias"] = torch.zeros(rows)
        router[f"{name}.u"] = F.normalize(normal(rows, std=1), dim=0)
        router[f"{name}.v"] = F.normalize(normal(columns, std=1), dim=0)
    for _ in range(15):
        router |= power_iterated(router)
    return router


def is_state(name: str) -> bool:
    """Whether a value of the router is the power iteration's and not trained."""
    return name.endswith((".u", ".v"))


@torch.no_grad()
def power_iterated(router: Params) -> Params:
    """The router's state, and only that, after one more power iteration for every spectral norm.

    `router | power_iterated(router)` is what a training step routes with, and what the next one starts from.
    """
    state: Params = {}
    for name in router:
        if name.endswith(".u"):
            linear = name.removesuffix(".u")
            weight = router[f"{linear}.weight"]
            u = F.normalize(weight @ router[f"{linear}.v"], dim=0)
            state |= {f"{linear}.u": u, f"{linear}.v": F.normalize(weight.T @ u, dim=0)}
    return state


def folded(router: Params) -> Params:
    """The same router for use only: its matrices divided by their spectral norms, and no state."""
    with torch.no_grad():
        return {
            name: _weight(router, name.removesuffix(".weight")) if name.endswith(".weight") else values
            for name, values in router.items()
            if not is_state(name)
        }


def route(
    router: Params,
    prototypes: Tensor,
    temperature: float | Tensor,
    pool: RouterPool = "mean",
    rng: Noise | None = None,
    classes: Tensor | None = None,
) -> Routing:
    """The experts' weights for the task with these prototypes `(way, dim)` of the frozen backbone.

    With `rng` the weights are a sample of relaxed Bernoulli variables, as in meta-tuning; without, they follow from the
    logits alone. `classes` `(way,)` says which prototypes are looked at, the first among them; None is all.
    """
    way, skills = len(prototypes), router["skill_tokens"]
    if classes is None:
        classes = torch.ones(way, dtype=torch.bool, device=prototypes.device)
    tokens = _block(router, torch.cat([prototypes, skills]), torch.cat([classes, classes.new_ones(len(skills))]))
    embedding = classes.to(tokens.dtype) @ tokens[:way] / classes.sum() if pool == "mean" else tokens[0]
    logits = router["expert_keys"] @ embedding
    s = torch.sigmoid(logits / temperature) if rng is None else relaxed_bernoulli(logits, temperature, rng)
    return Routing(embedding, logits, s / (s.sum() + 1e-8))


def relaxed_bernoulli(logits: Tensor, temperature: float | Tensor, rng: Noise) -> Tensor:
    """Samples in (0, 1), differentiable in the logits: σ((logits + ln u − ln(1 − u)) / temperature), u uniform.

    As torch.distributions' RelaxedBernoulli, which takes no generator.
    """
    noise = rng if isinstance(rng, Tensor) else logistic_noise(logits.shape, rng)
    return torch.sigmoid((logits + noise.to(logits)) / temperature)


def logistic_noise(shape: Sequence[int], rng: torch.Generator) -> Tensor:
    """ln u − ln(1 − u) on the CPU, float64, for uniform u."""
    return torch.logit(torch.rand(shape, generator=rng, dtype=torch.float64).clamp(1e-7, 1 - 1e-7))


def temperature_after(tasks: int) -> float:
    """The temperature of the weights when so many tasks have been seen: it falls from 5 to 0.5, so they get sharper."""
    return max(LOWEST_TEMPERATURE, START_TEMPERATURE - tasks / TASKS_PER_DEGREE)


def _block(router: Params, x: Tensor, seen: Tensor) -> Tensor:
    """The tokens `(n, dim)` after one pre-norm transformer block; they attend to those that `seen` `(n,)` names."""
    x = x + _attention(router, _norm(router, "block.norm1", x), seen)
    hidden = F.gelu(_linear(router, "block.mlp.fc1", _norm(router, "block.norm2", x)))
    return x + _linear(router, "block.mlp.fc2", hidden)


def _attention(router: Params, x: Tensor, seen: Tensor) -> Tensor:
    n, dim = x.shape
    q, k, v = _linear(router, "block.attn.qkv", x).view(n, 3, HEADS, dim // HEADS).permute(1, 2, 0, 3)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen.unsqueeze(0))
    return _linear(router, "block.attn.proj", attended.transpose(0, 1).reshape(n, dim))


def _norm(router: Params, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], router[f"{name}.weight"], router[f"{name}.bias"])


def _linear(router: Params, name: str, x: Tensor) -> Tensor:
    return F.linear(x, _weight(router, name), router.get(f"{name}.bias"))


def _weight(router: Params, name: str) -> Tensor:
    """The weight divided by its spectral norm u·Wv, where the router has the state for it (a folded one has none)."""
    weight = router[f"{name}.weight"]
    if f"{name}.u" not in router:
        return weight
    u, v = router[f"{name}.u"].detach(), router[f"{name}.v"].detach()  # constants to the gradient
    return weight / (u @ (weight @ v))
