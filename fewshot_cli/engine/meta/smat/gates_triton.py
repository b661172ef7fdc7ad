"""The pass over all experts' gates on a GPU, in Triton: what `gates.interpolate` needs of it, one kernel each way.

A kernel reads every logit once and writes nothing of the size of the logits but their gradient. Sums over the weights
are made of one number for each block, so that they are the same from run to run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fewshot_cli.engine.device import chosen
from fewshot_cli.engine.meta.smat.gates import GAMMA, SHIFT, ZETA

BLOCK = 1024  # weights to a program


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    base, delta, logits, weights, merged, opened, positive,
    size, beta, shift, low, high, EXPERTS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < size
    row = logits + at  # moved on expert by expert, since experts x size may be more than 32 bits hold
    mix = tl.zeros([BLOCK], tl.float32)
    for m in tl.static_range(EXPERTS):
        logit = tl.load(row, mask=here, other=-float("inf"))
        z = tl.minimum(tl.maximum(tl.sigmoid(logit / beta) * (high - low) + low, 0.0), 1.0)
        mix += tl.load(weights + m) * z
        tl.store(opened + m * programs + program, tl.sum(tl.sigmoid(logit - shift), 0))
        tl.store(positive + m * programs + program, tl.sum((z > 0).to(tl.float32), 0))
        row += size
    moved = tl.load(base + at, mask=here) + mix * tl.load(delta + at, mask=here)
    tl.store(merged + at, moved, mask=here)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    delta, logits, weights, shares, of_merged, of_delta, of_logits, of_weights,
    size, beta, shift, low, high, EXPERTS: tl.constexpr, BLOCK: tl.constexpr, ADD: tl.constexpr,
    LEARNED: tl.constexpr
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < size
    row, of_row = logits + at, of_logits + at
    slope = tl.load(of_merged + at, mask=here, other=0.0)
    of_mix = slope * tl.load(delta + at, mask=here, other=0.0)
    mix = tl.zeros([BLOCK], tl.float32)
    for m in tl.static_range(EXPERTS):
        logit = tl.load(row, mask=here, other=-float("inf"))
        s, weight = tl.sigmoid(logit / beta), tl.load(weights + m)
        stretched = s * (high - low) + low
        z = tl.minimum(tl.maximum(stretched, 0.0), 1.0)
        mix += weight * z
        if LEARNED:
            p = tl.sigmoid(logit - shift)
            of_s = tl.where((stretched > 0) & (stretched < 1), weight * (high - low) / beta * of_mix, 0.0)
            of_logit = of_s * (1 - s) * s + (p - p * p) * tl.load(shares + m)
            if ADD:
                of_logit += tl.load(of_row, mask=here)
            tl.store(of_row, of_logit, mask=here)
        tl.store(of_weights + m * programs + program, tl.sum(z * of_mix, 0))
        row += size
        of_row += size
    tl.store(of_delta + at, slope * mix, mask=here)


def forward(base: Tensor, delta: Tensor, logits: Tensor, weights: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """As `Passes.forward` in `gates`, of float32."""
    merged, partial = base.new_empty(base.shape), _by_block(logits, 2)
    _run(_forward, (base, delta, logits, weights), (merged, *partial), beta)
    opened, positive = partial.sum(-1, dtype=torch.float64)
    return merged, opened, positive


def backward(
    delta: Tensor,
    logits: Tensor,
    weights: Tensor,
    of_merged: Tensor,
    shares: Tensor,
    beta: float,
    of_logits: Tensor | None,
    add: bool,
) -> tuple[Tensor, Tensor]:
    """As `Passes.backward` in `gates`, of float32."""
    of_delta, (partial,) = delta.new_empty(delta.shape), _by_block(logits, 1)
    # A kernel wants a tensor: where none is to be written to, one that is none.
    written = delta.new_empty(1) if of_logits is None else of_logits
    flags = {"ADD": add, "LEARNED": of_logits is not None}
    _run(_backward, (delta, logits, weights, shares, of_merged), (of_delta, written, partial), beta, **flags)
    return of_delta, partial.sum(-1, dtype=torch.float64).to(weights.dtype)


def _by_block(logits: Tensor, sums: int) -> Tensor:
    return logits.new_empty(sums, len(logits), triton.cdiv(logits.shape[1], BLOCK))


def _run(kernel: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], beta: float, **flags: bool) -> None:
    assert all(values.is_contiguous() for values in outputs)
    tensors = [values.contiguous() for values in inputs] + list(outputs)
    experts, size = next(values.shape for values in inputs if values.ndim == 2)
    with chosen(outputs[0].device):
        kernel[(triton.cdiv(size, BLOCK),)](
            *tensors, size, beta, SHIFT, GAMMA, ZETA, EXPERTS=experts, BLOCK=BLOCK, **flags
        )
