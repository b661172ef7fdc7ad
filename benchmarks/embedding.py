"""What it costs to embed a folder: against the bare forward passes of the same pictures, and a second time.

    python benchmarks/embedding.py [FOLDER]

Prints JSON lines. Goals: a folder of ordinary JPEGs within 1.10 times the bare forward passes of ViT-S; a second head
on the same folder runs no forward pass. Without FOLDER, photos of about 500 x 375 are made from drawn pictures.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from PIL import Image

from fewshot_cli.engine.device import keep_freed_memory
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.images.drawing import CLASSES, draw
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import find_images
from fewshot_cli.jobs.features import embed
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.pictures import Gallery
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

ROUNDS = 5
PHOTOS = 120


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else photos(Path(name) / "photos")
        paths = [StoredFile(path) for path in find_images([folder])]
        keep_freed_memory()
        lite0 = load_backbone("tf_efficientnet_lite0", Source(offline=True), None, torch.device("cpu"))
        small = "vit_small_patch16_224"
        vit = build_backbone(small, timm.create_model(small).state_dict())  # random weights take as long
        for backbone in (vit, lite0):
            print(json.dumps(folder_against_forward(backbone, paths)))
        print(json.dumps(second_time(lite0, paths, Path(name) / "cache.sqlite")))


def folder_against_forward(backbone: Backbone, paths: list[StoredFile]) -> dict[str, object]:
    gallery = Gallery(backbone.preprocessing, NoCache().pictures)
    pictures = torch.from_numpy(gallery.pictures(paths, [path.content_hash() for path in paths]))
    folders, bares = [], []
    for _ in range(ROUNDS):
        folders.append(seconds(lambda: embed(backbone, paths, NoCache(), NoProgress())))
        bares.append(seconds(lambda: backbone.frozen_features(pictures)))
    return {
        "what": f"{backbone.name}: folder / bare forward passes",
        "ratio": round(statistics.median(a / b for a, b in zip(folders, bares, strict=True)), 3),
        "images": len(paths),
        "images_per_second": round(len(paths) / statistics.median(folders), 1),
    }


def second_time(backbone: Backbone, paths: list[StoredFile], cache: Path) -> dict[str, object]:
    """Seconds and forward passes of embedding the same folder again."""
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    first = seconds(lambda: embed(backbone, paths, FeatureCache(cache), NoProgress()))
    handle = backbone.module.register_forward_hook(count)
    second = seconds(lambda: embed(backbone, paths, FeatureCache(cache), NoProgress()))
    handle.remove()
    return {"what": "second time / first time", "ratio": round(second / first, 4), "forward_passes": passes}


def seconds(body: "object") -> float:
    start = time.perf_counter()
    body()  # type: ignore[operator]
    return time.perf_counter() - start


def photos(folder: Path) -> Path:
    folder.mkdir()
    for index in range(PHOTOS):
        picture = draw(CLASSES[index % len(CLASSES)], index, 500).crop((0, 0, 500, 375))
        noisy = Image.blend(picture, Image.effect_noise(picture.size, 60).convert("RGB"), 0.2)
        noisy.save(folder / f"{index}.jpg", quality=92)
    return folder


if __name__ == "__main__":
    main()
