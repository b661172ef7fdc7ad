"""A picture wherever it lies: what the sources of data sets hand out."""

import hashlib
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.images import decode
from fewshot_cli.images.decode import Pixels


class Stored(Protocol):
    """One picture, wherever it lies; several threads may ask at once."""

    @property
    def name(self) -> str:
        """What people call it: "cats/1.jpg", "archive.zip: cats/1.jpg", "3.h5: image 7"."""

    def content_hash(self) -> str:
        """The SHA-256 of its bytes in hexadecimal; raises ImageError when they can't be read."""

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it, `(3, height, width)`; raises ImageError when there is none."""

    def opened(self) -> AbstractContextManager[Image.Image]:
        """The image with its header read and no pixel yet; raises ImageError when there is none."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A picture in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def content_hash(self) -> str:
        """The SHA-256 of the file."""
        return decode.content_hash(self.path)

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it."""
        return decode.load(self.path, preprocessing)

    def opened(self) -> AbstractContextManager[Image.Image]:
        """The image in the file."""
        return decode.opened(self.path)


class StoredPixels(ABC):
    """A picture in no file of its own, which comes as pixels."""

    __slots__ = ()

    @abstractmethod
    def pixels(self) -> Pixels:
        """RGB in 8 bits, `(height, width, 3)`; raises ImageError when there is none."""

    def content_hash(self) -> str:
        """The SHA-256 of its shape and pixels."""
        picture = self.pixels()
        return hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it."""
        return decode.load_array(self.pixels(), preprocessing)

    def opened(self) -> AbstractContextManager[Image.Image]:
        """The pixels as an image."""
        return nullcontext(Image.fromarray(self.pixels()))
