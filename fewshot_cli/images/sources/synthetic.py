"""The drawn pictures as a data set."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_cli.images.image_ref import StoredPixels
from fewshot_cli.images.sources.description import FoundDataset

if TYPE_CHECKING:
    from fewshot_cli.images.resize import Pixels

DRAWN = "drawn"  # the name under which the drawn pictures are asked for
DRAWN_PER_CLASS = 20
REMEMBERED = 1000
"""Drawings that are kept, more than there are."""


@dataclass(frozen=True, slots=True)
class DrawnPicture(StoredPixels):
    """One of the drawn pictures: the same for the same class and seed, made in memory."""

    label: str
    seed: int

    @property
    def name(self) -> str:
        """The class and the seed."""
        return f"{DRAWN}: {self.label} {self.seed}"

    def pixels(self) -> "Pixels":
        """The drawing."""
        return _drawn(self.label, self.seed)


def drawn_pictures() -> FoundDataset:
    """The data set of all drawn classes."""
    from fewshot_cli.images.drawing import CLASSES

    return FoundDataset(
        DRAWN,
        Path(DRAWN),
        CLASSES,
        lambda label: [DrawnPicture(label, seed) for seed in range(DRAWN_PER_CLASS)],
    )


@lru_cache(maxsize=REMEMBERED)
def _drawn(label: str, seed: int) -> "Pixels":
    import numpy as np

    from fewshot_cli.images.drawing import draw

    return np.asarray(draw(label, seed))
