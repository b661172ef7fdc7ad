"""Prepared pictures by index: in memory where they fit, else from the cache, else decoded again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from threading import RLock

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.images.prefetch import decoders, in_order
from fewshot_cli.images.resize import Pixels
from fewshot_cli.storage.feature_cache import PictureCache

IN_MEMORY = 1 << 30  # bytes of pictures kept by a process
AT_ONCE = 64  # pictures written to the cache together


class Gallery:
    """Pictures by content; the first of them stay in memory, and all go to the cache if it takes them."""

    def __init__(self, preprocessing: Preprocessing, cache: PictureCache) -> None:
        self.preprocessing, self.cache = preprocessing, cache
        self.shape = (3, *preprocessing.size)
        facts = [decoders(), asdict(preprocessing)]
        self._preparation = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        self._held: dict[str, Pixels] = {}
        self._new: dict[str, Pixels] = {}
        self._lock = RLock()  # a thread may ask for the next pictures while these are looked at

    def has(self, content: str) -> bool:
        """Whether the picture need not be decoded."""
        return content in self._held or bool(self.cache.holds(self._preparation, [content]))

    def add(self, content: str, picture: Pixels) -> None:
        """Takes a picture that was decoded just now."""
        self._hold(content, picture)
        self._new[content] = picture
        if len(self._new) >= AT_ONCE:
            self.keep()

    def keep(self) -> None:
        """Writes what is new to the cache."""
        new, self._new = self._new, {}
        self.cache.save(self._preparation, new)

    def pictures(self, stored: Sequence[Stored], contents: Sequence[str]) -> Pixels:
        """The pictures `(n, 3, height, width)` of what is stored, which had these contents.

        Raises FewshotError where one has changed meanwhile.
        """
        with self._lock:
            return self._pictures(stored, contents)

    def _pictures(self, stored: Sequence[Stored], contents: Sequence[str]) -> Pixels:
        found = np.empty((len(contents), *self.shape), dtype=np.uint8)
        missing = []
        for row, content in enumerate(contents):
            picture = self._held.get(content)
            if picture is None:
                picture = self.cache.load(self._preparation, [content], self.shape).get(content)
                if picture is None:
                    missing.append(row)
                    continue
                self._hold(content, picture)
            found[row] = picture
        again = in_order(self._again, [(stored[row], contents[row]) for row in missing])
        for row, picture in zip(missing, again, strict=True):
            found[row] = picture
            self.add(contents[row], picture)
        self.keep()
        return found

    def _again(self, one: tuple[Stored, str]) -> Pixels:
        stored, content = one
        hint = "Leave the folder as it is while fewshot is at work."
        try:
            read = stored.read()
            if read.hash != content:
                raise FewshotError(f"{stored.name} has changed since it was read a moment ago.", hint)
            return read.picture(self.preprocessing)
        except ImageError as error:
            problem = f"{stored.name} could be read a moment ago and can't be any more: {error.reason}."
            raise FewshotError(problem, hint) from None

    def _hold(self, content: str, picture: Pixels) -> None:
        if (len(self._held) + 1) * picture.nbytes <= IN_MEMORY:
            self._held[content] = picture


@dataclass(frozen=True)
class Pictures:
    """Some pictures of a gallery by index: `(n, 3, height, width)` uint8, decoded when first looked at."""

    stored: Sequence[Stored] = field(repr=False)
    contents: Sequence[str] = field(repr=False)
    gallery: Gallery = field(repr=False)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, indices: Tensor) -> Tensor:
        rows = indices.tolist()
        pixels = self.gallery.pictures([self.stored[row] for row in rows], [self.contents[row] for row in rows])
        return torch.from_numpy(pixels)
