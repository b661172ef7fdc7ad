"""A few images of a folder, looked at for how long that takes, and a support set like the whole folder."""

import time
from dataclasses import dataclass

import torch

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.jobs.features import Embedded, embed
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.storage.feature_cache import NoCache

LOOKED_AT = 8  # images, twice
OWN = 0.7  # of a made feature what stands for its class; the rest is of another image


@dataclass(frozen=True)
class FolderSample:
    """A support set of as many images as the folder has, like the few that were looked at, and the time of these.

    `first` are the seconds of the first images, with all that is loaded on first use, and `later` those of one more.
    """

    support: Support
    first: float
    later: float

    @property
    def seconds(self) -> float:
        """What looking at the whole folder takes."""
        return self.first + self.later * max(0, len(self.support) - LOOKED_AT)


def sample_of(labelled: Folder, backbone: Backbone) -> FolderSample:
    """What a few images of the folder, of all its classes in turn, say of it; nothing is remembered of them.

    Raises FewshotError where none of them can be read.
    """
    stored = _spread(labelled)
    halves = stored[:LOOKED_AT], stored[LOOKED_AT:] or stored[:LOOKED_AT]
    found, seconds = [], []
    for half in halves:
        begin = time.perf_counter()
        found.append(embed(backbone, half, NoCache(), NoProgress()))
        seconds.append((time.perf_counter() - begin) / len(half))
    if not any(len(one.readable) for one in found):
        raise FewshotError(
            f"None of the images that were looked at can be read: {next(iter(found[0].problems.values()))}",
            "`fewshot doctor FOLDER` names every image that can't be read.",
        )
    return FolderSample(_like(labelled, backbone, found), seconds[0] * len(halves[0]), seconds[1])


def _spread(labelled: Folder) -> list[Stored]:
    """So many images as are looked at, of each class in turn."""
    of_class: dict[str, list[Stored]] = {}
    for item in labelled.items:
        of_class.setdefault(item.label, []).append(item.stored)
    turns = range(max(map(len, of_class.values())))
    in_turn = [members[turn] for turn in turns for members in of_class.values() if turn < len(members)]
    return in_turn[: 2 * LOOKED_AT]


def _like(labelled: Folder, backbone: Backbone, found: list[Embedded]) -> Support:
    """A support set of the folder's size and classes, whose features are mixed from those seen."""
    seen = torch.cat([one.features for one in found])
    number = {name: index for index, name in enumerate(labelled.classes)}
    labels = torch.tensor([number[item.label] for item in labelled.items])
    rng = torch.Generator().manual_seed(0)
    others = torch.randint(len(seen), (len(labels),), generator=rng)
    features = OWN * seen[labels % len(seen)] + (1 - OWN) * seen[others]
    features *= 1 + 0.1 * torch.randn(features.shape, generator=rng).to(features.device)
    images = _Blank(len(labels), backbone.preprocessing.size)
    return Support(images, labels.to(backbone.device), features, len(labelled.classes), labelled.classes)


@dataclass(frozen=True)
class _Blank:
    """Black pictures, which nobody looks at."""

    count: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(indices), 3, *self.size, dtype=torch.uint8)
