"""Which pictures are copies of one another: re-encoded, resized or slightly cropped, and what merely looks alike."""

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Places: TypeAlias = npt.NDArray[np.intp]

SIDE = 32
# Tuned on 5300 photos, sketches, paintings and textures, each with copies at JPEG quality 50, at half size, cropped by
# 2 %, and all three: what `checkup` finds there, and that it calls next to nothing else a copy, is in tests/images.
HASH_DISTANCE = 18  # bits of 63 that may differ
ROUGH_LIKENESS = 0.3  # correlation before aligning: cheap, and drops nine candidates of ten among sketches
LIKENESS = 0.96  # correlation after aligning
CONTRAST = (0.82, 1.2)
SHIFT, STRETCH = 0.75, 1.7  # pixels of 32; 1.7 is a crop of 5 %
COLOUR_CHANGE = 8.0  # grey levels, of the mean of red, green or blue
LEAST_DETAIL = 3.0  # grey levels of deviation: an empty sheet looks like every other
KEPT = 257  # of a grey level: thumbnails are kept in steps of 1/257
ROWS, ACROSS = 32, 4096  # hashes compared at once: what a processor's cache holds
CHUNK = 512  # pairs of thumbnails compared at once: a few tens of MB, however many pictures there are


@dataclass(frozen=True, eq=False)
class PictureSignature:
    """What is kept of a picture to find its copies: `grey` (32, 32) blurred, `hash` (63,) of ±1, mean `colour` (3,)."""

    grey: Floats
    hash: Floats
    colour: Floats


def signature(image: Image.Image) -> PictureSignature:
    """The signature of an RGB picture of any size."""
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    grey = thumbnail @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    waves = (_COSINES @ grey @ _COSINES.T).ravel()[1:]
    return PictureSignature(
        _blurred(grey), np.where(waves > np.median(waves), 1, -1).astype(np.float32), thumbnail.mean((0, 1))
    )


def copies(signatures: Iterable[PictureSignature]) -> list[tuple[int, int]]:
    """The pairs i < j of pictures that show the same, sorted; see `SignatureIndex.copies`."""
    with SignatureIndex() as kept:
        for one in signatures:
            kept.add(one)
        return kept.copies()


class SignatureIndex:
    """The signatures of many pictures, to find copies: 20 bytes each in memory, thumbnails in a temporary file."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._colours = array("f")
        self._file = TemporaryFile(prefix="fewshot-")  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> "SignatureIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, signature: PictureSignature) -> None:
        """One more."""
        self._hashes.append(int.from_bytes(np.packbits(signature.hash > 0).tobytes(), "big"))
        self._colours.extend(signature.colour.tolist())
        self._file.write(np.rint(signature.grey * KEPT).astype(np.uint16).tobytes())

    def copies(self) -> list[tuple[int, int]]:
        """The pairs i < j of pictures that show the same, sorted.

        Three sieves, each finer and slower: a perceptual hash (the signs of the lowest waves, against their median),
        the correlation of two thumbnails, and the same after one is moved, stretched and brightened onto the other.
        """
        if len(self._hashes) < 2:
            return []
        self._file.flush()
        greys = np.memmap(self._file, np.uint16, "r", shape=(len(self._hashes), SIDE, SIDE))
        colours = np.array(self._colours, dtype=np.float32).reshape(-1, 3)
        found: list[tuple[int, int]] = []
        for first, second in _close(np.array(self._hashes, dtype=np.uint64), colours):
            alike = _same(*(greys[places].astype(np.float32) / np.float32(KEPT) for places in (first, second)))
            found += zip(first[alike].tolist(), second[alike].tolist(), strict=True)
        return sorted(found)


def _same(pictures: Floats, others: Floats) -> npt.NDArray[np.bool_]:
    """Which pairs of thumbnails `(pairs, 32, 32)` show the same."""
    flat = [one.reshape(len(one), -1) for one in (pictures, others)]
    normal = [one - one.mean(axis=1, keepdims=True) for one in flat]
    lengths = [np.maximum(np.linalg.norm(one, axis=1), 1e-6) for one in normal]
    likeness = np.einsum("np,np->n", *normal) / (lengths[0] * lengths[1])
    detailed = [one.std(axis=1) > LEAST_DETAIL for one in flat]
    same: npt.NDArray[np.bool_] = (likeness > ROUGH_LIKENESS) & detailed[0] & detailed[1]
    ones, twos = pictures[same], others[same]
    same[same] = _same_when_aligned(ones, twos) & _same_when_aligned(twos, ones)
    return same


def _close(hashes: npt.NDArray[np.uint64], colours: Floats) -> Iterator[tuple[Places, Places]]:
    """Pairs i < j whose hashes differ in few bits and whose colours are near, in handfuls of CHUNK at most."""
    for row in range(0, len(hashes), ROWS):
        for column in range(row, len(hashes), ACROSS):
            differing = np.bitwise_count(hashes[row : row + ROWS, None] ^ hashes[None, column : column + ACROSS])
            first, second = np.nonzero(differing <= HASH_DISTANCE)
            first, second = first + row, second + column
            near = (first < second) & (np.abs(colours[first] - colours[second]).max(axis=1) < COLOUR_CHANGE)
            first, second = first[near], second[near]
            for i in range(0, len(first), CHUNK):
                yield first[i : i + CHUNK], second[i : i + CHUNK]


def _same_when_aligned(pictures: Floats, others: Floats) -> npt.NDArray[np.bool_]:
    """Whether each of `others` `(pairs, 32, 32)` is its picture a little moved, stretched, brightened: one step of
    Gauss-Newton, which finds the six numbers by least squares on the picture and its slopes.
    """
    down, across = np.gradient(pictures, axis=(1, 2))
    position = np.arange(SIDE, dtype=np.float32) / SIDE - 0.5
    parts = [pictures, np.ones_like(pictures), across, position * across, down, position[:, None] * down]
    given = np.stack(parts, axis=-1).reshape(-1, SIDE * SIDE, len(parts)).astype(np.float64)
    wanted = others.reshape(-1, SIDE * SIDE, 1).astype(np.float64)
    turned = given.transpose(0, 2, 1)
    weights = np.linalg.solve(turned @ given + 1e-3 * np.eye(len(parts)), turned @ wanted)
    unexplained = ((wanted - given @ weights) ** 2).sum(axis=(1, 2))
    explained = 1 - unexplained / np.maximum(((wanted - wanted.mean(1, keepdims=True)) ** 2).sum(axis=(1, 2)), 1e-6)
    contrast = weights[:, 0, 0]
    moves = np.abs(weights[:, 2:, 0]) <= np.array([SHIFT, STRETCH, SHIFT, STRETCH]) * np.abs(contrast)[:, None]
    same = (explained > LIKENESS**2) & (contrast > CONTRAST[0]) & (contrast < CONTRAST[1]) & moves.all(axis=1)
    return np.asarray(same, dtype=np.bool_)


def _blurred(grey: Floats) -> Floats:
    """(1, 2, 1) / 4 along both sides: without it, half a pixel of shift in fine lines is another picture."""
    for axis in (0, 1):
        padded = np.pad(grey, [(1, 1) if side == axis else (0, 0) for side in (0, 1)], mode="edge")
        before, middle, after = (np.take(padded, np.arange(SIDE) + i, axis=axis) for i in range(3))
        grey = ((before + 2 * middle + after) / 4).astype(np.float32)
    return grey


def _cosines() -> Floats:
    """The eight slowest waves of the discrete cosine transform, `(8, 32)`."""
    waves = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(SIDE) + 1) / (2 * SIDE))
    return waves.astype(np.float32)


_COSINES = _cosines()
