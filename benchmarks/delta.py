"""What a delta file takes, in bytes and in time, against what nothing can beat and against peft.

    python benchmarks/delta.py size [--backbone vit_small_patch16_224 --backbone vit_base_patch16_224]
    python benchmarks/delta.py speed [--backbone vit_base_patch16_224] [--density 0.01] [--rounds 7]

`size` prints a Markdown table for a random mask of each density over all weights of the backbone: bits of each
position, also as a multiple of the bound log2 C(size, count), and bytes of the whole file for each changed weight, for
each kind of values. In the last column the mask follows from a seed. Then, files of a head alone.

`speed` (which needs `pip install peft`) prints how many times as fast as something else we are, by the process time of
one core: medians over rounds in which all take turns. Weights and changes are random, since speed does not depend on
them; float16 values, as `fewshot adapt` writes them, from files in the page cache.
* load: from a file to merged weights in a model that is there. Ours reads, checks and applies the file; peft's LoRA
  (rank 16, all linear layers) and SHiRA (rank 16) are `from_pretrained` and `merge_and_unload`; dense is `load_file` of
  all weights and `load_state_dict`.
* apply: a delta in memory. Ours keeps what it overwrites; LoRA is `W.addmm_(B, A)` for every linear layer.
* swap: one delta out and another in, exactly, next to a copy of the model.
* in turns: images under three delta files in turns, next to three passes under one: the ratio of the times.
The last lines are the goals, and whether this run met them.
"""

import argparse
import copy
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.delta.change import Sparse
from fewshot_cli.engine.delta.masks import random_positions
from fewshot_cli.engine.device import keep_freed_memory
from fewshot_cli.engine.head.linear import Head, cosine_head
from fewshot_cli.engine.model.delta_swap import ParameterBuffer
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.formats.delta.file import BaseFacts, Expected, Header, Provenance, read_delta_file, write_delta_file
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.jobs.classify.prediction.extractors import swapping_extractors
from fewshot_cli.jobs.models.adapted import adapted_of

BACKBONES = ("vit_small_patch16_224", "vit_base_patch16_224")
DENSITIES = (0.001, 0.01, 0.05, 0.1)
KINDS: tuple[Values, ...] = ("float32", "float16", "int8", "1bit")
CLASSES = 10
WIDTHS = (384, 768, 1280, 2048, 2560)
"""Of the features under heads alone."""
SEED = 0
LINEAR = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])"
RANK = 16

Shapes = dict[str, tuple[int, ...]]
Action = Callable[[], object]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sizes = commands.add_parser("size", help="bytes against the bound")
    speeds = commands.add_parser("speed", help="times against peft and dense weights")
    for command in (sizes, speeds):
        command.add_argument("--backbone", action="append", help="timm's name; may be repeated")
        command.add_argument("--density", action="append", type=float, help="of the change; may be repeated")
    speeds.add_argument("--rounds", type=int, default=7)
    speeds.add_argument("--batch", type=int, default=4, help="images of a batch under files in turns")
    given = parser.parse_args()
    torch.set_num_threads(1)
    backbones, densities = given.backbone or BACKBONES, given.density or DENSITIES
    if given.command == "size":
        print_sizes(backbones, densities)
    else:
        print_speeds(backbones, densities, given.rounds, given.batch)


def print_row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def print_head(*columns: str) -> None:
    print_row(*columns)
    print_row(*["---"] * len(columns))


# --- what is measured ------------------------------------------------------------------------------------------------


def shapes_of(backbone: str) -> Shapes:
    """timm's parameters, without memory for them."""
    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=0)
    return {name: tuple(values.shape) for name, values in model.named_parameters()}


def random_delta(shapes: Shapes, density: float, drawn: bool = False, seed: int = SEED) -> dict[str, Sparse]:
    """A change of that share of all weights, or, if `drawn`, of each parameter, at random positions; some 1e-3 each."""
    rng = torch.Generator().manual_seed(seed)
    delta = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        if drawn:
            positions = random_positions(SEED, name, size, math.ceil(density * size))
        else:
            positions = (torch.rand(size, generator=rng) < density).nonzero().squeeze(1)
        delta[name] = Sparse(shape, positions, 1e-3 * torch.randn(len(positions), generator=rng))
    return delta


def header_for(backbone: str, shapes: Shapes, changed: Shapes) -> Header:
    """A header as `fewshot adapt` writes it for a hundred images."""
    preprocessing = Preprocessing((224, 224), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    base = BaseFacts(
        backbone=backbone,
        fingerprint="0" * 64,
        size=sum(map(math.prod, shapes.values())),
        licence="apache-2.0",
        preprocessing=preprocessing,
    )
    provenance = Provenance(
        seed=SEED,
        images=10 * CLASSES,
        data="0" * 64,
        learned_from=("0" * 12,) * 10 * CLASSES,
        expected_accuracy=Expected(mean=0.9, low=0.8, high=0.95, how="5-fold, 100 images"),
        versions=dict.fromkeys(("fewshot-cli", "python", "torch", "timm", "numpy", "pillow", "safetensors"), "1.2.3"),
    )
    return Header(
        base=base,
        classes=tuple(f"class {i}" for i in range(CLASSES)),
        unit_norm=True,
        shapes=changed,
        touched=dict.fromkeys(changed, "0" * 64),
        recipe={"method": {"name": "shira", "density": 0.01}},
        provenance=provenance,
    )


def head_for(dim: int) -> Head:
    """A head of random prototypes, with many small features and few large ones, as real ones have."""
    return cosine_head(torch.empty(CLASSES, dim).exponential_(generator=torch.Generator().manual_seed(SEED)))


def write(path: Path, backbone: str, shapes: Shapes, delta: dict[str, Sparse], dim: int, values: Values) -> int:
    """Writes the file; gives its bytes."""
    header = header_for(backbone, shapes, {name: shapes[name] for name in delta})
    return write_delta_file(path, header, delta, head_for(dim), values, "8bit")


# --- size ------------------------------------------------------------------------------------------------------------


def print_sizes(backbones: list[str], densities: list[float]) -> None:
    """Tables of files of random masks over the backbones, and of heads alone."""
    print_head("backbone", "density", "positions, bits", "× bound", *KINDS, "float16, drawn")
    for backbone in backbones:
        shapes = shapes_of(backbone)
        for density in densities:
            print_row(backbone, density, *sizes_at(backbone, shapes, density))
    print()
    print_head("features", "KB of a file of ten classes from a hundred images")
    shapes = shapes_of(BACKBONES[0])
    with tempfile.TemporaryDirectory() as folder:
        for dim in WIDTHS:
            print_row(dim, round(write(Path(folder) / "x.fewshot", BACKBONES[0], shapes, {}, dim, "float16") / 1e3, 1))


def sizes_at(backbone: str, shapes: Shapes, density: float) -> list[str]:
    """A row of the table: what one mask takes."""
    random, drawn = (random_delta(shapes, density, is_drawn) for is_drawn in (False, True))
    count = sum(len(change.positions) for change in random.values())
    dim = list(shapes.values())[-1][0]  # of the last normalisation
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.fewshot"
        totals = [write(path, backbone, shapes, random, dim, values) / count for values in KINDS]
        coded = 8 * sum(size for name, size in tensor_bytes(path).items() if name.startswith("positions/"))
        totals.append(
            write(path, backbone, shapes, drawn, 384, "float16") / sum(len(c.positions) for c in drawn.values())
        )
    bound = bits_of_set(sum(map(math.prod, shapes.values())), count)
    return [f"{coded / count:.2f}", f"{coded / bound:.3f}", *(f"{total:.2f}" for total in totals)]


def tensor_bytes(path: Path) -> dict[str, int]:
    """How many bytes each tensor of a safetensors file takes."""
    with path.open("rb") as file:
        listed = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    offsets = {name: entry["data_offsets"] for name, entry in listed.items() if name != "__metadata__"}
    return {name: last - first for name, (first, last) in offsets.items()}


def bits_of_set(size: int, count: int) -> float:
    """log2 C(size, count)."""
    return (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


# --- speed -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contestant:
    """What is timed, and what makes things ready for it before each time, which is not."""

    run: Action
    ready: Action = lambda: None


@dataclass(frozen=True)
class Goal:
    """What the ratio of a column should be, at a density of a ViT-B."""

    column: str
    density: float
    limit: float
    at_least: bool = True

    def verdict(self, ratio: float) -> str:
        met = ratio >= self.limit if self.at_least else ratio <= self.limit
        asked = f"{'at least' if self.at_least else 'at most'} {self.limit:.3g}"
        return f"* {self.column}, ViT-B at {self.density:g}: {ratio:.3g}, asked {asked}: {'met' if met else 'NOT met'}"


COLUMNS = ("load: LoRA", "load: SHiRA", "load: dense", "apply: `addmm_`", "swap: copy of the model", "in turns")
GOALS = (
    Goal("load: LoRA", 0.01, 8),
    Goal("load: SHiRA", 0.01, 50),
    Goal("load: dense", 0.01, 1),
    Goal("apply: `addmm_`", 0.01, 3.5),
    Goal("swap: copy of the model", 0.01, 1 / 1.1),
    Goal("swap: copy of the model", 0.001, 10),
    Goal("in turns", 0.01, 1.15, at_least=False),
)


def print_speeds(backbones: list[str], densities: list[float], rounds: int, batch: int) -> None:
    """The table, and which goals this run met."""
    keep_freed_memory()
    found: dict[tuple[str, float], dict[str, float]] = {}
    print_head("backbone", "density", "load, ms", *COLUMNS)
    for backbone in backbones:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(backbone, Path(folder))
            for density in densities:
                files = [bench.delta_file(density, seed) for seed in range(3)]
                loading = medians(bench.loading(files[0]), rounds)
                ratios = {f"load: {name}": each / loading["ours"] for name, each in loading.items()}
                applying = medians(bench.applying(files[0]), rounds)
                swapping = medians(bench.swapping(files), rounds)
                ratios["apply: `addmm_`"] = applying["LoRA"] / applying["ours"]
                ratios["swap: copy of the model"] = swapping["copy"] / swapping["ours"]
                turns = medians(bench.in_turns(files, batch), max(3, rounds // 2))
                ratios["in turns"] = turns["three"] / turns["one"]
                found[backbone, density] = ratios
                cells = [f"{ratios[column]:.3g}" for column in COLUMNS]
                print_row(backbone, density, round(loading["ours"], 1), *cells)
    print()
    for goal in GOALS:
        if ratios := found.get((BACKBONES[1], goal.density)):
            print(goal.verdict(ratios[goal.column]))


class Bench:
    """A model with random weights, its files in `folder`, and what is timed on it."""

    def __init__(self, name: str, folder: Path) -> None:
        torch.manual_seed(SEED)
        self.name, self.folder = name, folder
        self.module = timm.create_model(name, num_classes=0).eval().requires_grad_(False)
        self.dense = folder / "dense.safetensors"
        save_file(dict(self.module.state_dict()), self.dense)
        self.adapters = {name: self._adapter(name) for name in ("LoRA", "SHiRA")}
        self.arena = ParameterBuffer(copy.deepcopy(self.module))
        self.copied = torch.empty_like(self.arena.flat)

    def _adapter(self, kind: str) -> Path:
        """A folder with an adapter as peft saves it, of no zeros."""
        from peft import LoraConfig, ShiraConfig, get_peft_model

        config = {"LoRA": LoraConfig, "SHiRA": ShiraConfig}[kind](r=RANK, target_modules=LINEAR)
        made = get_peft_model(copy.deepcopy(self.module), config)
        for name, values in made.named_parameters():
            if kind.lower() in name:
                nn.init.normal_(values.data, std=0.01)
        made.save_pretrained(self.folder / kind)
        return self.folder / kind

    def delta_file(self, density: float, seed: int) -> Path:
        shapes = shapes_of(self.name)
        path = self.folder / f"{density}-{seed}.fewshot"
        write(path, self.name, shapes, random_delta(shapes, density, seed=seed), self.module.num_features, "float16")
        return path

    def loading(self, file: Path) -> Mapping[str, Contestant]:
        plain = copy.deepcopy(self.module)
        return {
            "ours": Contestant(
                lambda: self.arena.apply(self.arena.prepared(read_delta_file(file).delta)), self.arena.restore
            ),
            "dense": Contestant(lambda: plain.load_state_dict(load_file(self.dense))),
            **{name: self._peft(folder) for name, folder in self.adapters.items()},
        }

    def _peft(self, folder: Path) -> Contestant:
        from peft import PeftModel

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

        def fused() -> None:
            for weight, left, right in layers:
                weight.addmm_(left, right)

        return {"ours": Contestant(lambda: self.arena.apply(prepared), self.arena.restore), "LoRA": Contestant(fused)}

    def swapping(self, files: list[Path]) -> Mapping[str, Contestant]:
        one, other = (self.arena.prepared(read_delta_file(file).delta) for file in files[:2])
        return {
            "ours": Contestant(lambda: self.arena.apply(other), lambda: self.arena.apply(one)),
            "copy": Contestant(lambda: self.copied.copy_(self.arena.flat)),
        }

    def in_turns(self, files: list[Path], batch: int) -> Mapping[str, Contestant]:
        """A batch under each of the files, and as many times under one of them."""
        backbone = build_backbone(self.name, self.module.state_dict())
        models = {str(file): Model(backbone, adapted_of(read_delta_file(file), file)) for file in files}
        extractors = list(swapping_extractors(backbone, models).values())
        pictures = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8)
        return {
            "three": Contestant(lambda: [extractor(pictures) for extractor in extractors]),
            "one": Contestant(lambda: [extractors[0](pictures) for _ in extractors]),
        }


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


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
