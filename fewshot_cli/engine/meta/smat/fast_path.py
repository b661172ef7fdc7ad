"""SMAT's fast path on a GPU, Triton's kernels and CUDA graphs: tried on little first, and left where it is at fault."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import grad

from fewshot_cli.engine.defaults import TRAINING_BETA
from fewshot_cli.engine.device import Recorder, recorder, release_memory, runs_triton
from fewshot_cli.engine.meta.fast_path import FastPath
from fewshot_cli.engine.meta.settings import FastPathChoice
from fewshot_cli.engine.meta.smat.gates import IN_CHUNKS, GatePasses, clamp_logits_, interpolate
from fewshot_cli.engine.params import Params
from fewshot_cli.errors import FewshotError

TRIED = 5000  # weights: several programs of a kernel, the last of them not full
WITHIN = 1e-4
"""How far results of the trial may be from those of the plain pass, relative to their largest value."""
STEPS_WITHIN = {torch.float32: 1e-2, torch.bfloat16: 5e-2}
"""How far the loss and the norms of the gradients of a step may be from the plain ones, by the passes' precision."""


class Fault(Exception):
    """What the fast path did wrong, as the end of a sentence."""


def available(device: torch.device) -> tuple[GatePasses, Recorder] | None:
    """The kernels and the recorder of a GPU; None on other devices. Raises Fault where a GPU has no Triton."""
    recorded_by = recorder(device)
    if recorded_by is None:
        return None
    if not runs_triton(device):
        raise Fault("Triton is not installed")
    from fewshot_cli.engine.meta.smat import gates_triton

    return gates_triton, recorded_by


def fast_path(
    wanted: FastPathChoice, device: torch.device, experts: int, warn: Callable[[str], None]
) -> FastPath[GatePasses] | None:
    """The fast path, proved on a few thousand weights, or None for the plain one.

    `warn` hears in one sentence why the fast path is not taken, where it should be and does not work. Raises
    FewshotError for `on` where it does not work, or where there is none.
    """
    if wanted == "off":
        return None
    try:
        parts = available(device)
        if parts is not None:
            _prove(*parts, device, experts)
            return FastPath(*parts, warn)
    except Exception as error:  # whatever a compiler, a driver or a kernel may have to say
        if wanted == "on":
            raise FewshotError(
                f"The fast path does not work here: {reason(error)}.",
                "Leave --fast-path on out: training then takes the plain path, which is slower.",
            ) from None
        warn(f"Training takes the plain path, which is slower, as the fast one does not work here: {reason(error)}.")
        return None
    if wanted == "on":
        raise FewshotError(
            f"--fast-path on would do nothing: the fast path is for NVIDIA's GPUs, and this run is on {device.type}.",
            "Leave it out, or choose a GPU with --device.",
        )
    return None


def reason(error: BaseException) -> str:
    """What an error says in its first line, without a full stop, or its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")


def check_near(what: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], within: float) -> None:
    """Raises Fault for the first value that is further from the expected than so much of that one's largest entry."""
    for name, values in expected.items():
        least = 1e-6 if values.is_floating_point() else 0.5
        most = within * float(values.abs().max()) + least
        apart = float((found[name] - values).abs().max())
        if not apart <= most:  # nor where it is no number
            raise Fault(f"{name} of {what} is {apart:.2g} from the plain result")


# --- the trial at the start ---


@dataclass(frozen=True)
class _Trial:
    """Random weights, experts and slopes to try passes on."""

    base: Tensor
    delta: Tensor
    logits: Tensor
    weights: Tensor
    slope: Tensor
    shares: Tensor

    @classmethod
    def of(cls, device: torch.device, experts: int) -> "_Trial":
        rng = torch.Generator().manual_seed(0)
        base, delta, slope = torch.randn(3, TRIED, generator=rng)
        logits = 3 * torch.randn(experts, TRIED, generator=rng)
        clamp_logits_(logits)
        weights, shares = torch.rand(2, experts, generator=rng)
        return cls(*(values.to(device) for values in (base, delta, logits, weights, slope, shares)))


def _prove(passes: GatePasses, recorded_by: Recorder, device: torch.device, experts: int) -> None:
    trial = _Trial.of(device, experts)
    check_near("the gates' kernels", _by_hand(passes, trial), _by_hand(IN_CHUNKS, trial), WITHIN)
    check_near("a recorded graph", _replayed(passes, recorded_by, trial), _not_recorded(trial), WITHIN)
    release_memory(device)


def _by_hand(passes: GatePasses, trial: _Trial) -> Params:
    """What both passes give, in every way that they are used."""
    merged, opened, positive = passes.forward(trial.base, trial.delta, trial.logits, trial.weights, TRAINING_BETA)
    results = {"the merged weights": merged, "the open gates": opened, "the number of gates": positive}
    ways = {"written": (torch.empty_like(trial.logits), False), "added": (torch.ones_like(trial.logits), True)}
    for name, (into, add) in {**ways, "left out": (None, False)}.items():
        of_delta, of_weights = passes.backward(
            trial.delta, trial.logits, trial.weights, trial.slope, trial.shares, TRAINING_BETA, into, add
        )
        results |= {f"the gradient of delta ({name})": of_delta, f"the gradient of weights ({name})": of_weights}
        if into is not None:
            results[f"the gradient of logits ({name})"] = into
    return results


def _descended(passes: GatePasses, trial: _Trial, slope: Tensor, into: Tensor) -> Tensor:
    """The gradient of delta, and added to `into` that of the logits: what a step has of the gates."""
    delta = trial.delta.detach().requires_grad_()
    merged = interpolate(trial.base, delta, trial.logits, trial.weights, into=into, passes=passes)
    (of_delta,) = grad(merged.weights, delta, slope)
    return of_delta


def _replayed(passes: GatePasses, recorded_by: Recorder, trial: _Trial) -> Params:
    """The work once by Python and twice from a recording, whose input changes in between."""
    slope, into = trial.slope.clone(), torch.zeros_like(trial.logits)

    def work() -> Tensor:
        return _descended(passes, trial, slope, into)

    recorded_by.run(work)
    replay = recorded_by.record(work)
    replay()
    slope.mul_(-3)
    of_delta = replay().clone()
    return {"the gradient of delta": of_delta, "the gradient of logits": into}


def _not_recorded(trial: _Trial) -> Params:
    into = torch.zeros_like(trial.logits)
    for factor in (1, 1, -3):
        of_delta = _descended(IN_CHUNKS, trial, factor * trial.slope, into)
    return {"the gradient of delta": of_delta, "the gradient of logits": into}
