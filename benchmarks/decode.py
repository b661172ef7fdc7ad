"""How much faster one core turns photos into backbone input than Pillow and timm do, and what that costs in exactness.

    python benchmarks/decode.py [--shared ../shared] [--photos 6] [--rounds 5]

Prints one line of JSON. For each size of photo: the median over photos and rounds of the ratio of process times, where
the two ways alternate, and the mean absolute change in grey levels against timm's result. The large photos are real
ones (drawn ones where there is no shared folder), enlarged, with grain at three scales so that they compress like
photos of a phone.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timm.data
import torch
from PIL import Image

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images.decode import load
from fewshot_cli.images.drawing import CLASSES, draw

SIZES = {"12_megapixels": (4000, 3000), "500x375": (500, 375)}
IMAGENET = Preprocessing(
    size=(224, 224),
    crop_fraction=0.875,
    crop_mode="center",
    interpolation="bicubic",
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--photos", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted((arguments.shared / "data" / "imagenet_sample100").glob("*.jpg"))
    step = max(1, len(files) // arguments.photos)
    originals = [Image.open(file).convert("RGB") for file in files[::step]][: arguments.photos]
    originals = originals or [draw(name, 0, 512) for name in CLASSES[: arguments.photos]]
    result: dict[str, object] = {"benchmark": "decode", "photos": "real" if files else "drawn", "count": len(originals)}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in SIZES.items():
            paths = []
            for i, original in enumerate(originals):
                paths.append(Path(folder) / f"{name}-{i}.jpg")
                enlarged(original, size, seed=i).save(paths[-1], quality=90)
            result[name] = measured(paths, arguments.rounds)
    print(json.dumps(result))


def enlarged(original: Image.Image, size: tuple[int, int], seed: int) -> Image.Image:
    """The picture at another size with grain of 1, 4 and 16 pixels."""
    noise = np.random.default_rng(seed)
    pixels = np.asarray(original.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    for grain in (1, 4, 16):
        coarse = noise.normal(0, 3, (size[1] // grain + 1, size[0] // grain + 1)).astype(np.float32)
        fine = Image.fromarray(coarse).resize(
            (coarse.shape[1] * grain, coarse.shape[0] * grain), Image.Resampling.BICUBIC
        )
        pixels = pixels + np.asarray(fine)[: size[1], : size[0], None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def measured(paths: list[Path], rounds: int) -> dict[str, float]:
    """The figures for files of one size."""
    transform = timm.data.create_transform(
        (3, *IMAGENET.size),
        is_training=False,
        crop_pct=IMAGENET.crop_fraction,
        crop_mode=IMAGENET.crop_mode,
        interpolation=IMAGENET.interpolation,
        normalize=False,
    )

    def plain(path: Path) -> np.ndarray:
        return np.asarray(transform(Image.open(path).convert("RGB")))

    ratios, ours, theirs, changes = [], [], [], []
    for path in paths:
        difference = np.abs(plain(path).astype(int) - load(path, IMAGENET))
        changes.append(difference.mean())
        for _ in range(rounds):
            theirs.append(seconds(lambda path=path: plain(path)))
            ours.append(seconds(lambda path=path: load(path, IMAGENET)))
            ratios.append(theirs[-1] / ours[-1])
    return {
        "megabytes": round(statistics.median(path.stat().st_size for path in paths) / 1e6, 2),
        "ratio": round(statistics.median(ratios), 2),
        "timm_ms": round(1000 * statistics.median(theirs), 2),
        "fewshot_ms": round(1000 * statistics.median(ours), 2),
        "mean_change": round(float(np.mean(changes)), 3),
        "worst_mean_change": round(float(np.max(changes)), 3),
    }


def seconds(action: Callable[[], object]) -> float:
    """The process time that an action takes."""
    start = time.process_time()
    action()
    return time.process_time() - start


if __name__ == "__main__":
    main()
