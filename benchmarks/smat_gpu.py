"""A SMAT episode on a GPU: fewshot's step (bfloat16, a CUDA graph) next to one written down plainly, on random weights.

    python benchmarks/smat_gpu.py                                   ViT-S/16 at 128 px, 10 classes, three sizes
    python benchmarks/smat_gpu.py --device cpu --backbone test_vit --image-size 64 --images 3x3 --rounds 1
                                                                    the same work without a GPU, to see that it runs

Prints a JSON line for each size and number format of the plain episode, and after those that a goal is set for, whether
it is met. An episode is loss and gradients; the features of the frozen backbone come from a cache in fewshot's and are
computed in the plain one. fewshot's is timed as a training loop has it: filled up to its bucket, copied to the graph's
inputs, replayed. The two take turns in one process, between CUDA events; seconds are medians. `extra_bytes` is what
each adds to the peak of allocated memory from its first call on: gradients, warm-up and recording included. Exits with
2 where there is no GPU.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from smat import TEMPERATURE, WAY, plain_bank, reference, relative_error
from torch import Tensor

from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.smat.fast_path import fast_path
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, MULTIPLIERS, start_bank, trained
from fewshot_cli.engine.meta.smat.router import power_iterated
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.meta.smat.shape_buckets import bucket_of
from fewshot_cli.engine.meta.smat.step import SMATStep
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.cuda_graphs import WARM_UPS

SPEED_UP, MILLISECONDS, GOAL_IMAGES = 4.0, 20.0, (100, 100)  # on an H200, ViT-S/16 at 128 px
OFFICIAL_BYTES, OFFICIAL_IMAGES = 4.0e9, (10, 10)  # of the published code, ViT-S/16 at 128 px


def main() -> int:
    options = parse()
    device = torch.device(options.device)
    if device.type != "cpu" and not torch.cuda.is_available():
        print("There is no GPU here, so nothing was measured.", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    weights = dict(timm.create_model(options.backbone).state_dict())
    backbone = build_backbone(options.backbone, weights, options.image_size, device)
    lowered = torch.bfloat16 if device.type != "cpu" else torch.float32
    net, settings = FlatBackbone.of(backbone, lowered), SMATSettings()
    bank = start_bank(net, settings, seed=0)
    bank[DELTA] = 0.01 * torch.randn_like(bank[DELTA])
    bank[MULTIPLIERS] = torch.full_like(bank[MULTIPLIERS], 0.3)
    facts = {"backbone": options.backbone, "image_size": options.image_size, "size": net.layout.size}
    facts |= {"way": WAY, "rounds": options.rounds, "torch": torch.__version__, "precision": str(lowered)}
    facts |= {"device": torch.cuda.get_device_name(device) if device.type != "cpu" else "cpu"}
    for support, query in options.images:
        for dtype in (torch.float32, torch.bfloat16) if device.type != "cpu" else (torch.float32,):
            found = episode(net, bank, settings, support, query, dtype, options.rounds)
            line = {"what": "episode", "support": support, "query": query, "plain_precision": str(dtype)}
            print(json.dumps(line | facts | found), flush=True)
            print("".join(f"{goal}\n" for goal in goals((support, query), found)), end="", flush=True)
    return 0


def episode(
    net: FlatBackbone,
    bank: Params,
    settings: SMATSettings,
    support: int,
    query: int,
    dtype: torch.dtype,
    rounds: int,
) -> dict[str, Any]:
    """Seconds and memory of both, and how far their loss and gradients are apart."""
    device = net.base.device
    task = random_task(net, support, query)
    extra: dict[str, int] = {}

    before = start_of_peak(device)
    fast = {name: values.clone().requires_grad_(name in trained(bank)) for name, values in bank.items()}
    copies = in_use(device) - before
    told: list[str] = []
    step = SMATStep(fast, net, settings, fast_path("auto", device, settings.experts, told.append))

    def fast_episode() -> Tensor:
        return step(task, TEMPERATURE).total

    for _ in range(WARM_UPS + 2):
        fast_episode()
    extra["fast"] = peak(device) - before - copies

    before = start_of_peak(device)
    plain = plain_bank(net, bank)
    copies = in_use(device) - before
    test = reference()

    def plain_episode() -> Tensor:
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
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
        total: Tensor = sum(parts.values(), start=net.base.new_zeros(()))
        total.backward()
        return total.detach()

    for _ in range(2):
        plain_episode()
    extra["plain"] = peak(device) - before - copies

    seconds = alternating({"plain": plain_episode, "fast": fast_episode}, rounds, device)
    for values in [*fast.values(), *plain["delta"].values(), *plain["logits"].values()]:
        values.grad = None
    plain["multipliers"] = bank[MULTIPLIERS].clone()
    totals = plain_episode(), fast_episode()
    of_delta = net.layout.flatten({name: values.grad for name, values in plain["delta"].items()})
    of_logits = torch.cat([values.grad.flatten(0, -2) for values in plain["logits"].values()]).T
    bucket = bucket_of(task)
    return {
        "plain_seconds": round(seconds["plain"], 5),
        "fast_seconds": round(seconds["fast"], 5),
        "ratio": round(seconds["plain"] / seconds["fast"], 2),
        "plain_extra_bytes": extra["plain"],
        "fast_extra_bytes": extra["fast"],
        "fallen_back": told,
        "bucket": [bucket.support, bucket.query, bucket.way],
        "loss_error": abs(float(totals[1] / totals[0]) - 1),
        "delta_error": relative_error(fast[DELTA].grad, of_delta),
        "logits_error": relative_error(fast[LOGITS].grad, of_logits),
    }


def random_task(net: FlatBackbone, support: int, query: int) -> FeaturedTask:
    height, width = net.backbone.preprocessing.size
    images = [torch.randn(n, 3, height, width, device=net.base.device) for n in (support, query)]
    way = min(WAY, support)
    labels = [torch.arange(n, device=net.base.device) % way for n in (support, query)]
    with torch.no_grad():
        features = [torch.cat([net.backbone.features(part) for part in half.split(50)]) for half in images]
    return FeaturedTask(images[0], labels[0], images[1], labels[1], way, features[0], features[1])


def alternating(works: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """The median seconds of each, taking turns."""
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            took[name].append(timed(work, device))
    return {name: statistics.median(values) for name, values in took.items()}


def timed(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cpu":
        start = time.perf_counter()
        work()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def start_of_peak(device: torch.device) -> int:
    """Bytes in use; the peak counts from here on."""
    gc.collect()
    if device.type != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    return in_use(device)


def in_use(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type != "cpu" else 0


def peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type != "cpu" else 0


def goals(images: tuple[int, int], found: dict[str, Any]) -> list[str]:
    """A sentence for each goal that is set for tasks of this size."""
    said = []
    if images == GOAL_IMAGES:
        milliseconds = 1000 * found["fast_seconds"]
        met = found["ratio"] >= SPEED_UP and milliseconds <= MILLISECONDS
        said.append(
            f"Goal for ViT-S/16 at 128 px on an H200: {SPEED_UP:g} times as fast, at most {MILLISECONDS:g} ms. "
            f"{'Met' if met else 'Not met'} by this line: {found['ratio']:g} times, {milliseconds:.1f} ms."
        )
    if images == OFFICIAL_IMAGES:
        share = found["fast_extra_bytes"] / OFFICIAL_BYTES
        said.append(
            f"Goal for ViT-S/16 at 128 px: half of the published code's {OFFICIAL_BYTES / 1e9:.1f} GB at most. "
            f"{'Met' if 0 < share <= 0.5 else 'Not met'} by this line: {found['fast_extra_bytes'] / 1e9:.2f} GB."
        )
    return said


def size(text: str) -> tuple[int, int]:
    support, _, query = text.partition("x")
    return int(support), int(query)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everything = [OFFICIAL_IMAGES, (25, 50), GOAL_IMAGES]
    parser.add_argument("--images", type=size, nargs="+", default=everything, help="support x query, such as 25x50")
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
