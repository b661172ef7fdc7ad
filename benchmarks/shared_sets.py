"""Features of the sets in ../shared/data on a frozen backbone, for benchmarks on many small tasks.

The first run embeds 10,000 pictures, minutes on two cores; afterwards fewshot's cache has them.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.features import embed
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.storage.feature_cache import FeatureCache

SHARED = Path(os.environ.get("FEWSHOT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
BACKBONE = "tf_efficientnet_lite0"
SETS = {
    "pacs/photo": "pacs/photo",
    "pacs/art_painting": "pacs/art_painting",
    "pacs/cartoon": "pacs/cartoon",
    "pacs/sketch": "pacs/sketch",
    "caltech101": "caltech101",
    "dtd10": "dtd10",
    "cifar10": "cifar10",
    "omniglot": "omniglot/omniglot_background_small.zip",
}


@dataclass(frozen=True)
class Set:
    """Features `(n, dim)` and labels `(n,)` of one set."""

    name: str
    features: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def task(self, way: int, images: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows `(way, images)` of random classes, and these classes."""
        counts = torch.bincount(self.labels)
        able = (counts >= images).nonzero().squeeze(1)
        chosen = able[torch.randperm(len(able), generator=rng)[:way]]
        rows = []
        for label in chosen.tolist():
            members = (self.labels == label).nonzero().squeeze(1)
            rows.append(members[torch.randperm(len(members), generator=rng)[:images]])
        return torch.stack(rows), chosen


def add_backbone(parser: argparse.ArgumentParser) -> None:
    """The options `--backbone` and `--weights`, of the backbone that is to see the sets."""
    parser.add_argument("--backbone", default=BACKBONE)
    parser.add_argument("--weights", type=Path, help="its weights; without, those of the default backbone's package")


def shared_sets(names: list[str] | None = None, name: str = BACKBONE, weights: Path | None = None) -> list[Set]:
    """The sets of these names, or all, as a backbone sees them."""
    backbone = load_backbone(name, Source(weights, offline=True), None, torch.device("cpu"))
    found = []
    for which in names or SETS:
        folder = read_labelled(SHARED / "data" / SETS[which])
        embedded = embed(backbone, [item.stored for item in folder.items], FeatureCache(), NoProgress())
        place = {label: index for index, label in enumerate(folder.classes)}
        labels = torch.tensor([place[folder.items[row].label] for row in embedded.readable])
        found.append(Set(which, embedded.features, labels, folder.classes))
    return found
