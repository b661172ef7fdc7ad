"""Which pictures are copies of one another: re-encoded, resized or slightly cropped, and what merely looks alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]

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
CHUNK, MANY = 1024, 16384  # hashes are compared so many by so many: 80 MB at once


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of a picture to find its copies, 1.1 KB: `grey` (32, 32) blurred, `hash` (63,) of ±1, the deviation
    of its greys, and its mean `colour` (3,)."""

    grey: npt.NDArray[np.uint8]
    hash: npt.NDArray[np.int8]
    deviation: float
    colour: Floats


def look(image: Image.Image) -> Look:
    """The Look of an RGB picture of any size."""
    thumbnail = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    grey = thumbnail @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    waves = (_COSINES @ grey @ _COSINES.T).ravel()[1:]
    blurred = _blurred(grey)
    signs = np.where(waves > np.median(waves), 1, -1).astype(np.int8)
    return Look(np.rint(blurred).astype(np.uint8), signs, float(blurred.std()), thumbnail.mean((0, 1)))


def copies(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """The pairs i < j of pictures that show the same, sorted.

    Three sieves, each finer and slower: a perceptual hash (the signs of the lowest waves, against their median), the
    correlation of two thumbnails, and the same after one is moved, stretched and brightened onto the other.
    """
    if len(looks) < 2:
        return []
    colours = np.stack([look.colour for look in looks])
    detailed = np.array([look.deviation > LEAST_DETAIL for look in looks])
    found: list[tuple[int, int]] = []
    for first, second in _close_hashes(np.stack([look.hash for look in looks])):
        alike = detailed[first] & detailed[second]
        alike &= np.abs(colours[first] - colours[second]).max(axis=1) < COLOUR_CHANGE
        first, second = first[alike], second[alike]
        pictures, others = (_greys([looks[i] for i in of.tolist()]) for of in (first, second))
        alike = (_normal(pictures) * _normal(others)).sum(axis=1) > ROUGH_LIKENESS
        first, second, pictures, others = first[alike], second[alike], pictures[alike], others[alike]
        alike = _same_when_aligned(pictures, others) & _same_when_aligned(others, pictures)
        found += zip(first[alike].tolist(), second[alike].tolist(), strict=True)
    return sorted(found)


def _greys(looks: Sequence[Look]) -> Floats:
    """The greys `(n, 32, 32)` of some pictures."""
    return np.array([look.grey for look in looks], dtype=np.float32).reshape(-1, SIDE, SIDE)


def _normal(greys: Floats) -> Floats:
    """The pictures `(n, 32 x 32)` without their mean, of length 1."""
    flat: Floats = greys.reshape(len(greys), SIDE * SIDE) - greys.mean(axis=(1, 2))[:, None]
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return flat


def _close_hashes(hashes: npt.NDArray[np.int8]) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Pairs i < j whose hashes differ in few bits, in handfuls; with signs, a product counts equal minus other bits."""
    nearest = hashes.shape[1] - 2 * HASH_DISTANCE
    for start in range(0, len(hashes), CHUNK):
        some = hashes[start : start + CHUNK].astype(np.float32)
        for behind in range(start, len(hashes), MANY):
            equal = some @ hashes[behind : behind + MANY].astype(np.float32).T >= nearest
            first, second = np.nonzero(np.triu(equal, 1 + start - behind))
            for i in range(0, len(first), CHUNK):
                yield first[i : i + CHUNK] + start, second[i : i + CHUNK] + behind


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
