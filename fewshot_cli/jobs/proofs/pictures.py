"""Pictures to prove a model on, where no support set is at hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.decode import load_array
from fewshot_cli.images.drawing import CLASSES, draw
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.prefetch import load_all
from fewshot_cli.images.sources.class_folders import find_images
from fewshot_cli.jobs.run_record import run_path

MOST_IMAGES = 32


def proof_pictures(file: Path, images: Path | None, preprocessing: Preprocessing) -> tuple[Tensor, str]:
    """Some pictures `(n, 3, height, width)` uint8 to prove a classifier on, and where they come from.

    They are those in `images`, else those that `file` was learned from where they still are, else drawn ones. Raises
    FewshotError where no image in `images` can be read.
    """
    folder = images or _learned_from(file)
    if folder is not None:
        pictures = _some_of(find_images([folder]), preprocessing)
        if pictures:
            return torch.from_numpy(np.stack(pictures)), str(folder)
        if images is not None:
            raise FewshotError(
                f"No image in {images} can be read.", f"`fewshot doctor {images}` says what is wrong with each."
            )
    return drawn_pictures(preprocessing, each=2), "drawn pictures"


def drawn_pictures(preprocessing: Preprocessing, each: int) -> Tensor:
    """Drawn pictures `(n, 3, height, width)` uint8, so many of each kind that can be drawn."""
    drawn = [draw(name, i) for name in CLASSES for i in range(each)]
    return torch.from_numpy(np.stack([load_array(np.asarray(picture), preprocessing) for picture in drawn]))


def _some_of(paths: Sequence[Path], preprocessing: Preprocessing) -> list[np.ndarray]:
    some = paths[:: max(1, len(paths) // MOST_IMAGES)][:MOST_IMAGES]
    return [picture for picture in load_all(some, preprocessing) if not isinstance(picture, ImageError)]


def _learned_from(file: Path) -> Path | None:
    """The folder that the record beside the file names, where it still is."""
    try:
        folder = Path(json.loads(run_path(file).read_text(encoding="utf-8"))["folder"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return folder if folder.is_dir() else None
