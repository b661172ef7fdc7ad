"""Pictures that a program has at hand: paths, Pillow's pictures and arrays, with labels or without."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.decode import upright_rgb
from fewshot_cli.images.image_error import DAMAGE, ImageError
from fewshot_cli.images.image_ref import Stored, StoredFile, StoredPixels
from fewshot_cli.images.resize import Pixels
from fewshot_cli.images.sources.class_folders import Folder, Item, class_name, find_images
from fewshot_cli.images.sources.labelled import read_labelled

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""The path of a file, a picture of Pillow's, or an array `(height, width, 3)` of uint8; one of two axes is grey."""

Labelled: TypeAlias = str | os.PathLike[str] | Mapping[str, Iterable[Picture]] | tuple[Iterable[Picture], Iterable[Any]]
"""The path of a folder with one sub-folder per class, pictures by class, or pictures and the label of each."""

MEMORY = Path("memory")
"""In the place of a folder, where pictures come from a program."""

KINDS = "Give paths, pictures of Pillow's, or arrays of uint8 of shape (height, width, 3)."


@dataclass(frozen=True)
class StoredPicture(StoredPixels):
    """A picture in memory, RGB in 8 bits; `called` is its name for messages."""

    called: str
    held: Pixels = field(repr=False)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.called

    def pixels(self) -> Pixels:
        """RGB in 8 bits, `(height, width, 3)`."""
        return self.held


def stored_pictures(pictures: Picture | Iterable[Picture], name: str = "image") -> list[Stored]:
    """The pictures as sources hand them out: one, several, an array `(n, height, width, 3)`, or all files of a folder.

    One in memory is called by `name` and its place. Raises FewshotError for what is no picture.
    """
    if isinstance(pictures, str | os.PathLike):
        return [StoredFile(path) for path in find_images([Path(pictures)])]
    if isinstance(pictures, Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        return [_stored(pictures, name)]
    if not isinstance(pictures, Iterable):
        raise FewshotError(f"A {type(pictures).__name__} is no picture.", KINDS)
    found: list[Stored] = []
    for place, picture in enumerate(pictures):
        if isinstance(picture, str | os.PathLike):
            found += [StoredFile(path) for path in find_images([Path(picture)])]
        else:
            found.append(_stored(picture, f"{name} {place}"))
    return found


def labelled_pictures(pictures: Labelled) -> Folder:
    """The labelled pictures, as a folder of them would be read; classes are sorted.

    Raises FewshotError for a single class, a class without pictures, and labels that don't go with the pictures.
    """
    if isinstance(pictures, str | os.PathLike):
        return read_labelled(Path(pictures))
    by_class: dict[str, list[Stored]] = {}
    if isinstance(pictures, Mapping):
        for label, some in pictures.items():
            by_class.setdefault(_class_name(label), []).extend(stored_pictures(some, str(label)))
    else:
        for stored, label in zip(*_pairs(pictures), strict=True):
            by_class.setdefault(label, []).append(stored)
    _check(by_class)
    items = tuple(Item(stored, label) for label in sorted(by_class) for stored in by_class[label])
    return Folder(MEMORY, tuple(sorted(by_class)), items)


def _pairs(pictures: Any) -> tuple[list[Stored], list[str]]:
    if not isinstance(pictures, tuple) or len(pictures) != 2:
        raise FewshotError(
            f"A {type(pictures).__name__} is no labelled set of pictures.",
            "Give a folder, a mapping from each class to its pictures, or (pictures, labels).",
        )
    given, labels = pictures
    stored: list[Stored] = [
        StoredFile(Path(picture)) if isinstance(picture, str | os.PathLike) else _stored(picture, f"image {place}")
        for place, picture in enumerate(given)
    ]
    names = [_class_name(label) for label in labels]
    if len(stored) != len(names):
        raise FewshotError(f"There are {len(stored)} pictures and {len(names)} labels.", "Give one label a picture.")
    return stored, names


def _class_name(label: Any) -> str:
    return class_name(str(label))


def _check(by_class: Mapping[str, Sequence[Stored]]) -> None:
    for label, some in by_class.items():
        if not some:
            raise FewshotError(f"The class {label!r} has no picture.", "Give it some, or leave it out.")
    if len(by_class) < 2:
        which = f"a single class, {next(iter(by_class))!r}" if by_class else "no class"
        raise FewshotError(f"The pictures have {which}; telling apart takes two.", "Add a second class.")


def _stored(picture: Any, name: str) -> StoredPicture:
    """A picture in memory. Raises FewshotError for anything else."""
    if isinstance(picture, Image.Image):
        try:
            return StoredPicture(name, np.asarray(upright_rgb(picture).image))
        except (ImageError, OSError, *DAMAGE) as error:
            raise FewshotError(
                f"The picture '{name}' can't be read: {error}.", "Open it again, or give its path."
            ) from None
    if not isinstance(picture, np.ndarray):
        raise FewshotError(f"'{name}' is a {type(picture).__name__}, and no picture.", KINDS)
    if picture.dtype != np.uint8 or 0 in picture.shape:
        raise FewshotError(
            f"The array '{name}' is of {picture.dtype} and shape {picture.shape}, and no picture in 8 bits.",
            "Convert it to uint8 in [0, 255] first." if picture.dtype != np.uint8 else KINDS,
        )
    if picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (1, 4)):
        grey_or_alpha = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
        return _stored(Image.fromarray(grey_or_alpha), name)
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise FewshotError(f"The array '{name}' has the shape {picture.shape}, which no picture has.", KINDS)
    return StoredPicture(name, np.array(picture))
