"""What it costs to put a delta file on a model, to apply a delta, and to swap one for another, next to peft.

    python benchmarks/delta_speed.py                    ViT-S and ViT-B at 0.1, 1, 5 and 10 %
    python benchmarks/delta_speed.py --models vit_base_patch16_224 --densities 0.01

Prints JSON lines: CPU milliseconds of one core (process time, medians over rounds in which all take turns) and ratios.
Weights and changes are random, since speed does not depend on them; files are as `fewshot adapt` writes them. Needs
`pip install peft`.
1. load: from a file, in the page cache, to merged weights in a model that is there. Ours reads, checks and applies the
   file; peft's LoRA (rank 16, all linear layers) and SHiRA (rank 16) are `from_pretrained` and `merge_and_unload`;
   dense is `load_file` of all weights and `load_state_dict`.
2. apply: the delta alone, in memory. Ours keeps what it overwrites; LoRA is `W += B @ A` or `W.addmm_(B, A)` for every
   linear layer; copy is a copy of the whole model.
3. swap: one delta out and another in, exactly, next to a copy of the model.
4. several: images under several delta files in turns, next to as many passes under one.
The last lines are the goals, and whether this run met them.
"""

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from peft import LoraConfig, PeftModel, ShiraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewshot_cli.engine.arena import Arena
from fewshot_cli.engine.backbones import build_backbone
from fewshot_cli.engine.deltas import Delta, Sparse
from fewshot_cli.engine.devices import keep_freed_memory
from fewshot_cli.engine.heads import Head
from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.engine.types import total_size
from fewshot_cli.files.delta_file import (
    BaseFacts,
    DeltaFile,
    Expected,
    Header,
    Provenance,
    read_delta_file,
    write_delta_file,
)
from fewshot_cli.files.rounding import Values
from fewshot_cli.jobs.predict import swapping_looks

MODELS = ("vit_small_patch16_224", "vit_base_patch16_224")
DENSITIES = (0.001, 0.01, 0.05, 0.1)
LINEAR = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
RANK = 16
VALUES: Values = "float16"  # as `fewshot adapt` keeps them

Weights = dict[str, Tensor]
Action = Callable[[], object]


@dataclass(frozen=True)
class Contestant:
    """What is timed, and what makes things ready for it before each time, which is not."""

    run: Action
    ready: Action = lambda: None


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    found: dict[tuple[str, str, float], dict[str, float]] = {}
    for model in options.models:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(model, Path(folder))
            for density in options.densities:
                files = [bench.delta_file(density, seed) for seed in (0, 1)]
                for what, contestants in {
                    "load": bench.loading(files[0], density == options.densities[0] or density == 0.01),
                    "apply": bench.applying(files[0]),
                    "swap": bench.swapping(files),
                }.items():
                    times = medians(contestants, options.rounds)
                    found[what, model, density] = times
                    report(what=what, model=model, density=density, bytes=files[0].stat().st_size, ms=times)
            several(model, [bench.delta_file(0.01, seed) for seed in (0, 1, 2)], options)
    goals(found)


class Bench:
    """A model with random weights, its files in `folder`, and what is timed on it."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(0)
        self.name, self.folder = name, folder
        self.module = timm.create_model(name, num_classes=0).eval().requires_grad_(False)
        self.shapes = {key: tuple(values.shape) for key, values in self.module.named_parameters()}
        self.size = total_size(dict(self.module.named_parameters()))
        self.dense = folder / "dense.safetensors"
        save_file(dict(self.module.state_dict()), self.dense)
        self.adapters = {"peft LoRA": self._adapter("lora"), "peft SHiRA": self._adapter("shira")}
        self.arena = Arena(copy.deepcopy(self.module))
        self.copied = torch.empty_like(self.arena.flat)

    def _adapter(self, kind: str) -> Path:
        """A folder with an adapter as peft saves it, of no zeros."""
        configs = {
            "lora": lambda: LoraConfig(r=RANK, target_modules=LINEAR),
            "shira": lambda: ShiraConfig(r=RANK, target_modules=LINEAR),
        }
        made = get_peft_model(copy.deepcopy(self.module), configs[kind]())
        for name, values in made.named_parameters():
            if kind in name:
                nn.init.normal_(values.data, std=0.01)
        made.save_pretrained(self.folder / kind)
        return self.folder / kind

    def delta(self, density: float, seed: int) -> Delta:
        rng = torch.Generator().manual_seed(seed)
        changes = {}
        for name, shape in self.shapes.items():
            positions = (torch.rand(torch.Size(shape).numel(), generator=rng) < density).nonzero().squeeze(1)
            if len(positions):
                values = 0.01 * torch.randn(len(positions), generator=rng)
                changes[name] = Sparse(shape, positions, values)
        return changes

    def delta_file(self, density: float, seed: int) -> Path:
        delta = self.delta(density, seed)
        path = self.folder / f"{density}-{seed}.fewshot"
        head = Head(torch.zeros(2, 8), torch.zeros(2), False)
        write_delta_file(path, header(self, delta), delta, head, VALUES)
        return path

    def loading(self, file: Path, with_peft: bool) -> Mapping[str, Contestant]:
        plain = copy.deepcopy(self.module)
        contestants = {
            "ours": Contestant(lambda: self.load(file), self.arena.restore),
            "dense": Contestant(lambda: plain.load_state_dict(load_file(self.dense))),
        }
        for name, folder in self.adapters.items() if with_peft else ():
            contestants[name] = self._peft(folder)
        return contestants

    def load(self, file: Path) -> None:
        self.arena.apply(self.arena.prepared(read_delta_file(file).delta))

    def _peft(self, folder: Path) -> Contestant:
        fresh: list[nn.Module] = []

        def ready() -> None:
            fresh[:] = [copy.deepcopy(self.module)]

        return Contestant(lambda: PeftModel.from_pretrained(fresh[0], folder).merge_and_unload(), ready)

    def applying(self, file: Path) -> Mapping[str, Contestant]:
        prepared = self.arena.prepared(read_delta_file(file).delta)
        layers = [
            (part.weight, 0.01 * torch.randn(part.weight.shape[0], RANK), torch.randn(RANK, part.weight.shape[1]))
            for name, part in copy.deepcopy(self.module).named_modules()
            if isinstance(part, nn.Linear)
        ]

        def product() -> None:
            for weight, left, right in layers:
                weight += left @ right

        def fused() -> None:
            for weight, left, right in layers:
                weight.addmm_(left, right)

        return {
            "ours": Contestant(lambda: self.arena.apply(prepared), self.arena.restore),
            "W += B @ A": Contestant(product),
            "addmm_": Contestant(fused),
            "copy": Contestant(lambda: self.copied.copy_(self.arena.flat)),
        }

    def swapping(self, files: list[Path]) -> Mapping[str, Contestant]:
        one, other = (self.arena.prepared(read_delta_file(file).delta) for file in files)
        return {
            "ours": Contestant(lambda: self.arena.apply(other), lambda: self.arena.apply(one)),
            "copy": Contestant(lambda: self.copied.copy_(self.arena.flat)),
        }


def several(model: str, files: list[Path], options: argparse.Namespace) -> None:
    """Reports the time of a batch under three files in turns, next to three passes under one of them."""
    backbone = build_backbone(model, timm.create_model(model, num_classes=0).state_dict())
    found: list[DeltaFile] = [read_delta_file(file) for file in files]
    looks = list(swapping_looks(backbone, found).values())
    pictures = torch.randint(0, 256, (options.batch, 3, 224, 224), dtype=torch.uint8)
    times = medians(
        {
            "in turns": Contestant(lambda: [look(pictures) for look in looks]),
            "one": Contestant(lambda: [looks[0](pictures) for _ in looks]),
        },
        max(3, options.rounds // 2),
    )
    ratio = times["in turns"] / times["one"]
    report(what="several", model=model, files=len(files), density=0.01, batch=options.batch, ms=times, ratio=ratio)
    goal("several files in turns over one", ratio, 1.15)


def header(bench: Bench, delta: Delta) -> Header:
    return Header(
        base=BaseFacts(
            backbone=bench.name,
            fingerprint="0" * 64,
            size=bench.size,
            licence="none",
            preprocessing=Preprocessing((224, 224), 0.9, "center", "bicubic", (0.5,) * 3, (0.5,) * 3),
        ),
        classes=("one", "other"),
        unit_norm=False,
        shapes={name: tuple(change.shape) for name, change in delta.items()},
        recipe={},
        provenance=Provenance(
            seed=0,
            images=0,
            data="",
            learned_from=(),
            expected_accuracy=Expected(mean=None, low=None, high=None, how="random"),
            versions={},
        ),
    )


def goals(found: Mapping[tuple[str, str, float], Mapping[str, float]]) -> None:
    """The goals of ViT-B at 1 % (the swap also at 0.1 %) where this run measured it."""
    model = MODELS[1]
    if times := found.get(("load", model, 0.01)):
        goal("load over peft LoRA, times as fast", times["peft LoRA"] / times["ours"], 8, at_least=True)
        goal("load over peft SHiRA, times as fast", times["peft SHiRA"] / times["ours"], 50, at_least=True)
        goal("load over dense reload", times["ours"] / times["dense"], 1)
    if times := found.get(("apply", model, 0.01)):
        goal("apply over addmm_, times as fast", times["addmm_"] / times["ours"], 3.5, at_least=True)
    for density, most in ((0.01, 1.1), (0.001, 0.1)):
        if times := found.get(("swap", model, density)):
            goal(f"swap at {100 * density:g} % over copy", times["ours"] / times["copy"], most)


def goal(name: str, ratio: float, limit: float, at_least: bool = False) -> None:
    met = ratio >= limit if at_least else ratio <= limit
    report(what="goal", goal=name, ratio=ratio, **{"at_least" if at_least else "at_most": limit}, met=met)


def medians(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, float]:
    """CPU milliseconds of each; they take turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds + 1):
        for name, contestant in contestants.items():
            contestant.ready()
            start = time.process_time()
            contestant.run()
            times[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def report(**facts: Any) -> None:
    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        return float(f"{value:.3g}") if isinstance(value, float) else value

    print(json.dumps(rounded(facts)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--densities", nargs="+", type=float, default=list(DENSITIES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4, help="images of a batch under several files")
    return parser.parse_args()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
