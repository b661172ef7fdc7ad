"""What a delta file takes: its size against what nothing can beat.

    python benchmarks/delta.py size [--backbone vit_small_patch16_224 --backbone vit_base_patch16_224]

Prints JSON, one object a line, for a random mask of each density over all weights of the backbone, and each kind of
values: the size of the whole file in MB and in bytes for each changed weight, what the positions take in bits each and
as a multiple of the bound log2 C(size, count), and what everything else takes in KB: the header, the hashes of what is
touched, and a head of ten classes. `drawn` is a mask that follows from a seed, parameter by parameter.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import timm
import torch

from fewshot_cli.engine.deltas import Sparse
from fewshot_cli.engine.heads import Head
from fewshot_cli.engine.masks import random_positions
from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.files.delta_file import BaseFacts, Expected, Header, Provenance, write_delta_file
from fewshot_cli.files.rounding import Values

BACKBONES = ("vit_small_patch16_224", "vit_base_patch16_224")
DENSITIES = (0.001, 0.01, 0.05, 0.1)
KINDS: tuple[Values, ...] = ("float32", "bfloat16", "float16", "int8", "1bit")
CLASSES = 10
SEED = 0

Shapes = dict[str, tuple[int, ...]]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    sizes = commands.add_parser("size", help="bytes against the bound")
    sizes.add_argument("--backbone", action="append", help="timm's name; may be repeated")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for backbone in given.backbone or BACKBONES:
        print_sizes(backbone)


# --- what is measured ------------------------------------------------------------------------------------------------


def shapes_of(backbone: str) -> Shapes:
    """timm's parameters, without memory for them."""
    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=0)
    return {name: tuple(values.shape) for name, values in model.named_parameters()}


def random_delta(shapes: Shapes, density: float, drawn: bool = False) -> dict[str, Sparse]:
    """A change of that share of all weights, or, if `drawn`, of each parameter, at random positions; some 1e-3 each."""
    rng = torch.Generator().manual_seed(SEED)
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
    """A head of random prototypes."""
    rng = torch.Generator().manual_seed(SEED)
    return Head(torch.randn(CLASSES, dim, generator=rng), torch.zeros(CLASSES), unit_norm=True)


# --- size ------------------------------------------------------------------------------------------------------------


def print_sizes(backbone: str) -> None:
    """Files of random masks over the backbone, and one of a head alone."""
    shapes = shapes_of(backbone)
    dim = 384 if "small" in backbone else 768
    alone = file_bytes(backbone, shapes, {}, dim, "float16")
    print(json.dumps({"backbone": backbone, "head_alone_kb": round(alone / 1e3, 1)}), flush=True)
    for density in DENSITIES:
        for drawn in (False, True):
            delta = random_delta(shapes, density, drawn)
            for values in KINDS:
                print(json.dumps(size_figures(backbone, shapes, delta, density, drawn, dim, values)), flush=True)


def size_figures(
    backbone: str, shapes: Shapes, delta: dict[str, Sparse], density: float, drawn: bool, dim: int, values: Values
) -> dict[str, object]:
    """What the file of the delta takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.fewshot"
        total = write(path, backbone, shapes, delta, dim, values)
        tensors = tensor_bytes(path)
    count = sum(len(change.positions) for change in delta.values())
    coded = sum(length for name, length in tensors.items() if name.startswith("positions/"))
    return {
        "backbone": backbone,
        "density": density,
        "mask": "drawn" if drawn else "random",
        "values": values,
        "changed": count,
        "mb": round(total / 1e6, 4),
        "bytes_each": round(total / count, 3),
        "position_bits_each": round(8 * coded / count, 3),
        "times_the_bound": round(8 * coded / bits_of_set(sum(map(math.prod, shapes.values())), count), 4),
        "else_kb": round((total - coded - tensors["values"]) / 1e3, 1),
    }


def write(path: Path, backbone: str, shapes: Shapes, delta: dict[str, Sparse], dim: int, values: Values) -> int:
    """Writes the file; gives its bytes."""
    header = header_for(backbone, shapes, {name: shapes[name] for name in delta})
    return write_delta_file(path, header, delta, head_for(dim), values, "int8")


def file_bytes(backbone: str, shapes: Shapes, delta: dict[str, Sparse], dim: int, values: Values) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / "x.fewshot", backbone, shapes, delta, dim, values)


def tensor_bytes(path: Path) -> dict[str, int]:
    """How many bytes each tensor of a safetensors file takes."""
    with path.open("rb") as file:
        listed = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    offsets = {name: entry["data_offsets"] for name, entry in listed.items() if name != "__metadata__"}
    return {name: last - first for name, (first, last) in offsets.items()}


def bits_of_set(size: int, count: int) -> float:
    """log2 C(size, count)."""
    return (math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


if __name__ == "__main__":
    main()
