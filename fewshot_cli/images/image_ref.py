"""A picture wherever it lies: what the sources of data sets hand out. NumPy and Pillow are imported to read it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images import image_bytes

if TYPE_CHECKING:
    from PIL import Image

    from fewshot_cli.images.resize import Pixels

LARGEST_IN_MEMORY = 256_000_000  # bytes of a file that are read at once, to be hashed and decoded


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What was read of one picture: its bytes, RGB in 8 bits, or the path of a large file; `hash` names it."""

    hash: str
    source: "Path | bytes | Pixels"

    @classmethod
    def of_bytes(cls, source: bytes) -> "Content":
        """The hash is the SHA-256 in hexadecimal, as of a file of these bytes."""
        return cls(hashlib.sha256(source).hexdigest(), source)

    def picture(self, preprocessing: Preprocessing) -> "Pixels":
        """The picture as the backbone sees it, `(3, height, width)`; raises ImageError when there is none."""
        from fewshot_cli.images import decode

        if isinstance(self.source, Path):
            return decode.load(self.source, preprocessing)
        if isinstance(self.source, bytes):
            return decode.load_bytes(self.source, preprocessing)
        return decode.load_array(self.source, preprocessing)

    @contextmanager
    def opened(self) -> "Iterator[Image.Image]":
        """The picture as it is stored, no pixel of it decoded yet; whatever goes wrong inside raises ImageError."""
        from fewshot_cli.images import decode, identify

        if isinstance(self.source, Path | bytes):
            with identify.opened(self.source) as image:
                yield image
        else:
            yield decode.image_of(self.source)


class Stored(ABC):
    """One picture, wherever it lies; several threads may ask at once."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """What people call it: "cats/1.jpg", "archive.zip: cats/1.jpg", "3.h5: image 7"."""

    @abstractmethod
    def read(self) -> Content:
        """What lies there, read once; raises ImageError when it can't be."""

    def content_hash(self) -> str:
        """The SHA-256 of it in hexadecimal."""
        return self.read().hash

    def load(self, preprocessing: Preprocessing) -> "Pixels":
        """The picture as the backbone sees it, `(3, height, width)`; raises ImageError when there is none."""
        return self.read().picture(preprocessing)


@dataclass(frozen=True, slots=True)
class StoredFile(Stored):
    """A picture in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def read(self) -> Content:
        """The file; a very large one stays where it is."""
        content = image_bytes.file_bytes(self.path, LARGEST_IN_MEMORY)
        return Content(image_bytes.content_hash(self.path), self.path) if content is None else Content.of_bytes(content)


class StoredPixels(Stored):
    """A picture in no file of its own, which comes as pixels."""

    __slots__ = ()

    @abstractmethod
    def pixels(self) -> "Pixels":
        """RGB in 8 bits, `(height, width, 3)`; raises ImageError when there is none."""

    def read(self) -> Content:
        """The pixels; the hash is the SHA-256 of their shape and of them."""
        picture = self.pixels()
        return Content(hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest(), picture)
