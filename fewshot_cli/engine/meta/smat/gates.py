"""Sparse experts: each is a gate in [0, 1] for every weight of one shared delta (SMAT; Chen et al., 2024, ICML).

A task's weights are base + (Σ_m w_m z_m) ⊙ delta, with the router's w_m and the gates z_m of expert m, which are
hard-concrete (Louizos et al., 2018, arXiv:1712.01312): z = clamp(1.2 σ(logit / β) − 0.1, 0, 1), so that many are 0 or 1
exactly. Everything here is flat: `size` weights, gates and their logits `(experts, size)`.

Differs from the published code: its noise on the logits, at most 4e-6, is left out, as it changes nothing; and the
dummy classifier, whose gates are 1, is not counted in sparsities.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewshot_cli.engine.defaults import TRAINING_BETA
from fewshot_cli.engine.model.flat_params import Layout

GAMMA, ZETA = -0.1, 1.1  # the sigmoid is stretched to this interval before it is cut to [0, 1]
EVALUATION_BETA = 1.0  # of the published code; a gate that training closed opens a little
SHIFT = TRAINING_BETA * math.log(-GAMMA / ZETA)
LOWEST_LOGIT, HIGHEST_LOGIT = math.log(0.01), math.log(100)

# Weights worked on at once: all experts' gates of so many stay in the second-level cache of a CPU, while a GPU is kept
# busy by every single operation.
CPU_CHUNK, GPU_CHUNK = 2**14, 2**22


def start_logits(size: int, experts: int, rng: torch.Generator) -> Tensor:
    """Logits `(experts, size)` to start meta-tuning from, N(0, 0.5²); `rng` is a CPU generator."""
    return torch.randn(experts, size, generator=rng) * 0.5


def fixed_logits(on: Tensor, size: int) -> Tensor:
    """Logits `(size,)` of gates that are 1 at the positions `on` `(k,)` and 0 everywhere else."""
    return torch.full((size,), LOWEST_LOGIT, device=on.device).index_fill_(0, on, HIGHEST_LOGIT)


def clamp_logits_(logits: Tensor) -> None:
    """Puts logits that left their range back to its end, in place: after every step of the optimiser."""
    with torch.no_grad():
        logits.clamp_(LOWEST_LOGIT, HIGHEST_LOGIT)


def gates(logits: Tensor, beta: float = TRAINING_BETA) -> Tensor:
    """The gates in [0, 1] of logits of any shape."""
    return _stretched(torch.sigmoid(logits / beta)).clamp(0, 1)


def open_probability(logits: Tensor) -> Tensor:
    """The probability that a gate isn't 0, had its logit the noise of Louizos et al."""
    return torch.sigmoid(logits - SHIFT)


def sparsity(gates: Tensor) -> Tensor:
    """The share of exact zeros of each expert, `(experts,)`, of gates `(experts, ...)`."""
    return (gates == 0).flatten(1).mean(1, dtype=torch.float32)


def sparsity_by_parameter(logits: Tensor, layout: Layout, beta: float = TRAINING_BETA) -> dict[str, Tensor]:
    """For each parameter the share of exact zeros of each expert, `(experts,)`: for reports."""
    return {name: sparsity(gates(part, beta)) for name, part in layout.views(logits).items()}


class Merged(NamedTuple):
    """A task's weights, and how dense the gates are that made them."""

    weights: Tensor
    """`(size,)`"""
    expected_l0: Tensor
    """The mean probability that a gate is open, `(experts,)`, which is differentiable; in [0, 1]."""
    sparsity: Tensor
    """The share of gates that are exactly 0, `(experts,)`, which is not."""


Forward: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
"""Of base, delta, logits, weights and β: the merged weights; of each expert the sum of the probabilities that a gate is
open, and how many gates are not 0, float64."""
Backward: TypeAlias = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, float, Tensor | None, bool], tuple[Tensor, Tensor]
]
"""Of delta, logits, weights, the gradients of the merged weights and of every expert's open probability, and β: the
gradients of delta and weights. That of the logits is written to the next tensor, or added to it where the flag says so;
None has it left out."""


class GatePasses(Protocol):
    """The work of `interpolate`: `InChunks` is the plain one, `gates_triton` has it in one kernel each way."""

    @property
    def forward(self) -> Forward: ...

    @property
    def backward(self) -> Backward: ...


def is_closing(shares: Tensor) -> bool:
    """Whether the open probabilities may have a gradient; a GPU is not asked, as that would wait for it."""
    return shares.device.type != "cpu" or bool(shares.any())


class InChunks:
    """The passes in chunks that stay in the cache of a CPU; on any device."""

    def forward(
        self, base: Tensor, delta: Tensor, logits: Tensor, weights: Tensor, beta: float, /
    ) -> tuple[Tensor, Tensor, Tensor]:
        merged = torch.empty_like(base)
        opened, positive = logits.new_zeros(2, len(logits), dtype=torch.float64)
        for i in chunks(logits, CPU_CHUNK):
            z = gates(logits[:, i], beta)
            torch.addcmul(base[i], weights @ z, delta[i], out=merged[i])
            opened += open_probability(logits[:, i]).sum(1)
            positive += z.sign_().sum(1)  # several times as fast as counting
        return merged, opened, positive

    def backward(
        self,
        delta: Tensor,
        logits: Tensor,
        weights: Tensor,
        of_merged: Tensor,
        shares: Tensor,
        beta: float,
        of_logits: Tensor | None,
        add: bool,
        /,
    ) -> tuple[Tensor, Tensor]:
        of_delta, of_weights = torch.empty_like(delta), torch.zeros_like(weights)
        slope = (weights * (ZETA - GAMMA) / beta).unsqueeze(1)
        share = shares.unsqueeze(1)
        closing = is_closing(shares)
        for i in chunks(logits, CPU_CHUNK):
            s = torch.sigmoid(logits[:, i] / beta)
            stretched = _stretched(s)
            z = stretched.clamp(0, 1)
            of_mix = of_merged[i] * delta[i]
            of_weights += z @ of_mix
            torch.mul(of_merged[i], weights @ z, out=of_delta[i])
            if of_logits is None:
                continue
            # dz/dlogit = 1.2/β s(1 − s) where the gate is between 0 and 1, else 0
            inside = torch.ops.aten.hardtanh_backward(slope * of_mix, stretched, 0, 1)
            found = torch.ops.aten.sigmoid_backward(inside, s)
            if closing:
                p = open_probability(logits[:, i])
                found += torch.addcmul(p, p, p, value=-1).mul_(share)  # dp/dlogit = p(1 − p)
            if add:
                of_logits[:, i] += found
            else:
                of_logits[:, i] = found
        return of_delta, of_weights


IN_CHUNKS = InChunks()


def interpolate(
    base: Tensor,
    delta: Tensor,
    logits: Tensor,
    weights: Tensor,
    beta: float = TRAINING_BETA,
    into: Tensor | None = None,
    passes: GatePasses = IN_CHUNKS,
) -> Merged:
    """The weights base + (Σ_m w_m z_m) ⊙ delta of a task, from its expert weights `(experts,)`.

    Differentiable in `delta`, `logits` and `weights`, not in `base`. One pass over the logits, and one more backwards;
    neither keeps anything of their size but their gradient: what is needed in between is computed again. The gradient
    of the logits is added to the tensor `into` where there is one, and the logits themselves then get none. Where they
    need none and there is no such tensor, as of masks that never change, it is not computed. `passes` do the work.
    """
    return Merged(*_Interpolation.apply(base, delta, logits, weights, beta, into, passes))


class _Interpolation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        base: Tensor,
        delta: Tensor,
        logits: Tensor,
        weights: Tensor,
        beta: float,
        into: Tensor | None,
        passes: GatePasses,
    ) -> Any:
        ctx.save_for_backward(delta, logits, weights)
        ctx.beta, ctx.into, ctx.passes = beta, into, passes
        merged, opened, positive = passes.forward(base, delta, logits, weights, beta)
        size = logits.shape[1]
        l0, zeros = (opened / size).to(logits.dtype), (1 - positive / size).to(logits.dtype)
        ctx.mark_non_differentiable(zeros)
        return merged, l0, zeros

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_merged: Tensor, of_l0: Tensor, _: Tensor) -> Any:
        delta, logits, weights = ctx.saved_tensors
        shares = of_l0 / logits.shape[1]
        is_own = ctx.into is None and ctx.needs_input_grad[2]
        of_logits = logits.new_empty(logits.shape) if is_own else ctx.into
        of_delta, of_weights = ctx.passes.backward(
            delta, logits, weights, of_merged, shares, ctx.beta, of_logits, ctx.into is not None
        )
        return None, of_delta, of_logits if is_own else None, of_weights, None, None, None


def reset(multipliers: Tensor, sparsity: Tensor, target: float) -> Tensor:
    """The multipliers `(experts,)` to go on with: 0 for every expert that is sparser than the target."""
    return multipliers.detach().masked_fill(sparsity > target, 0)


def constraint(multipliers: Tensor, sparsity: Tensor, target: float, weights: Tensor) -> Tensor:
    """R1: its descent raises the multiplier of every expert that isn't sparse enough, in the measure it is used."""
    return ((sparsity - target) * multipliers * weights.detach()).sum()


def density_penalty(multipliers: Tensor, expected_l0: Tensor, target: float, weights: Tensor) -> Tensor:
    """R2: its descent closes the gates of the experts whose multiplier is not 0."""
    return ((target - 1 + expected_l0) * multipliers.detach() * weights.detach()).sum()


def _stretched(s: Tensor) -> Tensor:
    return s * (ZETA - GAMMA) + GAMMA


def chunks(values: Tensor, on_cpu: int) -> Iterator[slice]:
    """Slices along the last axis, one chunk after the other; `on_cpu` is the size of a chunk there."""
    size, chunk = values.shape[-1], on_cpu if values.device.type == "cpu" else GPU_CHUNK
    return (slice(start, min(start + chunk, size)) for start in range(0, size, chunk))
