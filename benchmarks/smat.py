"""SMAT's episode as fewshot computes it next to one written down plainly, on random weights and images.

    python benchmarks/smat.py                       everything, on the CPU with one thread
    python benchmarks/smat.py episode --images 10   loss and gradients of an episode of 10 + 10 images
    python benchmarks/smat.py gates merge           the experts alone: a training step's; those of a finished bank

Prints a JSON line for each comparison. The two take turns in one process; the ratio is that of the medians. Seconds are
of the process on a CPU, of the wall on other devices. `extra_bytes` is what a round adds to the peak of memory.
"""

import argparse
import ctypes
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch

from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.smat.expert_mixer import ExpertMixer
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import LOWEST_LOGIT, density_penalty, interpolate
from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, MULTIPLIERS, router_of, smat_loss, start_bank, trained
from fewshot_cli.engine.meta.smat.router import Routing, is_state, power_iterated, route
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.engine.params import Params

WAY = 10
TEMPERATURE = 5.0


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.manual_seed(0)
    weights = dict(timm.create_model(options.backbone).state_dict())
    backbone = build_backbone(options.backbone, weights, options.image_size, device)
    net = FlatBackbone.of(backbone, torch.bfloat16 if options.bfloat16 else torch.float32)
    settings = SMATSettings()
    bank = start_bank(net, settings, seed=0)
    bank[DELTA] = 0.01 * torch.randn_like(bank[DELTA])
    bank[MULTIPLIERS] = torch.full_like(bank[MULTIPLIERS], 0.3)
    facts = {"backbone": options.backbone, "size": net.layout.size, "experts": settings.experts, "device": str(device)}
    facts |= {"threads": options.threads, "rounds": options.rounds, "torch": torch.__version__}
    if "episode" in options.what:
        for images in options.images:
            print(
                json.dumps(
                    {"what": "episode", "support": images, "query": images}
                    | facts
                    | episode(net, bank, settings, images, options)
                ),
                flush=True,
            )
    if "gates" in options.what:
        print(json.dumps({"what": "gates"} | facts | training_gates(net, bank, options)), flush=True)
    if "merge" in options.what:
        for between in (0.0, 0.01):
            print(
                json.dumps(
                    {"what": "merge", "between": between} | facts | merge(net, bank, settings, between, options)
                ),
                flush=True,
            )


def episode(
    net: FlatBackbone, bank: Params, settings: SMATSettings, images: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Loss and gradients of one episode; frozen features come from a cache in the fast version."""
    test = reference()
    size = options.image_size
    support, query = torch.randn(2, images, 3, size, size, device=net.base.device)
    labels = torch.arange(images, device=net.base.device) % WAY
    with torch.no_grad():
        features = [torch.cat([net.backbone.features(part) for part in half.split(50)]) for half in (support, query)]
    task = FeaturedTask(support, labels, query, labels, WAY, features[0], features[1])
    plain = plain_bank(net, bank)
    fast = {name: values.clone().requires_grad_(name in trained(bank)) for name, values in bank.items()}

    def fast_episode() -> dict[str, torch.Tensor]:
        loss = smat_loss(fast, net, task, settings, TEMPERATURE)
        loss.total.backward()
        return dict(loss.parts)

    def plain_episode() -> dict[str, torch.Tensor]:
        parts = test.reference_episode(
            net.layout.views(net.base),
            plain["delta"],
            plain["logits"],
            plain["multipliers"],
            plain["router"] | power_iterated(plain["router"]),
            net.backbone,
            task,
            settings,
            TEMPERATURE,
        )
        sum(parts.values()).backward()
        return dict(parts)

    def forget() -> None:
        for values in [*fast.values(), *plain["delta"].values(), *plain["logits"].values(), *plain["router"].values()]:
            values.grad = None

    found = compare(plain_episode, fast_episode, forget, options.rounds, net.base.device)
    plain["multipliers"] = bank[MULTIPLIERS].clone()
    forget()
    totals = [sum(value.item() for value in run().values()) for run in (plain_episode, fast_episode)]
    of_delta = net.layout.flatten({name: values.grad for name, values in plain["delta"].items()})
    of_logits = torch.cat([values.grad.flatten(0, -2) for values in plain["logits"].values()]).T
    return found | {
        "loss_error": abs(totals[1] / totals[0] - 1),
        "delta_error": relative_error(fast[DELTA].grad, of_delta),
        "logits_error": relative_error(fast[LOGITS].grad, of_logits),
    }


def training_gates(net: FlatBackbone, bank: Params, options: argparse.Namespace) -> dict[str, Any]:
    """Merged weights, penalty and their gradients, without the network."""
    test = reference()
    weights = torch.rand(len(bank[LOGITS]), device=net.base.device).div(4)
    multipliers = bank[MULTIPLIERS]
    slope = torch.randn_like(net.base)
    plain = plain_bank(net, bank)
    fast = {name: bank[name].clone().requires_grad_() for name in (DELTA, LOGITS)}
    base, slopes = net.layout.views(net.base), list(net.layout.views(slope).values())

    def fast_gates() -> None:
        w = weights.clone().requires_grad_()
        merged = interpolate(net.base, fast[DELTA], fast[LOGITS], w)
        penalty = density_penalty(multipliers, merged.expected_l0, 0.9, weights)
        torch.autograd.backward([merged.weights, penalty], [slope, torch.ones_like(penalty)])

    def plain_gates() -> None:
        w = weights.clone().requires_grad_()
        z = {name: test.reference_gates(values, 2 / 3) for name, values in plain["logits"].items()}
        merged = test.reference_merge(base, plain["delta"], z, w)
        routing = Routing(weights, weights, weights)  # only the experts' weights are looked at
        penalties = test.reference_penalties(plain["logits"], z, multipliers.clone(), routing, SMATSettings())
        total = penalties["sparsity"]
        torch.autograd.backward([*merged.values(), total], [*slopes, torch.ones_like(total)])

    def forget() -> None:
        for values in [*fast.values(), *plain["delta"].values(), *plain["logits"].values()]:
            values.grad = None

    return compare(plain_gates, fast_gates, forget, options.rounds, net.base.device)


def merge(
    net: FlatBackbone, bank: Params, settings: SMATSettings, between: float, options: argparse.Namespace
) -> dict[str, Any]:
    """Routing and merging with a finished bank, a tenth of whose gates are open; `between` of the weights have a gate
    that is neither 0 nor 1. `dense` computes float gates and mixes them, `kept` has them ready as floats."""
    logits = torch.full_like(bank[LOGITS], LOWEST_LOGIT)
    logits[torch.rand_like(logits) < 0.1] *= -1
    logits[0, torch.rand_like(logits[0]) < between] = 0.3
    mixer = ExpertMixer.of(bank | {LOGITS: logits}, settings)
    prototypes = torch.randn(WAY, net.backbone.dim, device=net.base.device)
    logits = logits.T.contiguous()
    kept = (1.2 * torch.sigmoid(logits / (2 / 3)) - 0.1).clamp(0, 1)

    @torch.no_grad()
    def routed() -> torch.Tensor:
        return route(router_of(bank), prototypes, TEMPERATURE).weights

    def packed() -> torch.Tensor:
        return mixer.merged(net.base, prototypes, TEMPERATURE)

    def dense() -> torch.Tensor:
        z = (1.2 * torch.sigmoid(logits / (2 / 3)) - 0.1).clamp(0, 1)
        return net.base + (z * routed()).sum(-1) * mixer.delta

    def ready() -> torch.Tensor:
        return net.base + (kept * routed()).sum(-1) * mixer.delta

    error = relative_error(packed(), dense())
    rounds = max(5, options.rounds)
    found = compare(dense, packed, gc.collect, rounds, net.base.device)
    beside = compare(ready, packed, gc.collect, rounds, net.base.device)
    return (
        found
        | {"kept_seconds": beside["plain_seconds"], "kept_ratio": beside["ratio"], "error": error}
        | {"bytes": mixer.gates.bytes, "dense_bytes": kept.numel() * kept.element_size()}
    )


def compare(
    plain: Callable[[], Any], fast: Callable[[], Any], forget: Callable[[], Any], rounds: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of both, taking turns after a first turn that isn't counted."""
    seconds: dict[str, list[float]] = {"plain": [], "fast": []}
    extra: dict[str, int] = {}
    for i in range(rounds + 1):
        for name, work in (("plain", plain), ("fast", fast)):
            forget()
            gc.collect()
            before = memory(device)
            start = clock(device)
            work()
            took = clock(device) - start
            if i:
                seconds[name].append(took)
            else:
                extra[name] = peak_memory(device) - before
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "plain_seconds": round(medians["plain"], 4),
        "fast_seconds": round(medians["fast"], 4),
        "ratio": round(medians["plain"] / medians["fast"], 2),
        "plain_extra_bytes": extra["plain"],
        "fast_extra_bytes": extra["fast"],
    }


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.accelerator.synchronize(device)
    return time.perf_counter()


def memory(device: torch.device) -> int:
    """Bytes in use; the peak counts from here on."""
    if device.type != "cpu":
        torch.accelerator.reset_peak_memory_stats(device)
        return int(torch.accelerator.memory_allocated(device))
    ctypes.CDLL(None).malloc_trim(0)  # glibc: what was freed goes back
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is what is in use now
    return in_status("VmRSS")


def peak_memory(device: torch.device) -> int:
    return in_status("VmHWM") if device.type == "cpu" else int(torch.accelerator.max_memory_allocated(device))


def in_status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def plain_bank(net: FlatBackbone, bank: Params) -> dict[str, Any]:
    """The bank parameter by parameter, logits `(*shape, experts)`, as the reference takes it."""
    logits = {name: values.movedim(0, -1) for name, values in net.layout.views(bank[LOGITS]).items()}
    return {
        "delta": {name: v.clone().requires_grad_() for name, v in net.layout.views(bank[DELTA]).items()},
        "logits": {name: v.contiguous().requires_grad_() for name, v in logits.items()},
        "multipliers": bank[MULTIPLIERS].clone(),
        "router": {name: v.clone().requires_grad_(not is_state(name)) for name, v in router_of(bank).items()},
    }


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def reference() -> ModuleType:
    """tests/engine/meta/smat/test_loss.py, which holds the plain episode."""
    path = Path(__file__).resolve().parents[1] / "tests" / "engine" / "meta" / "smat" / "test_loss.py"
    spec = importlib.util.spec_from_file_location("test_loss", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = ("episode", "gates", "merge")
    parser.add_argument("what", nargs="*", default=everything, help=f"of {', '.join(everything)}; all if none is given")
    parser.add_argument("--images", type=int, nargs="+", default=[10, 100], help="in support and query set, each")
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="of the passes of the fast version")
    return parser.parse_args()


if __name__ == "__main__":
    main()
