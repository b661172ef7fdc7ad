"""From pixels of more than 8 bits to 8: which values are black and white where the kind of number doesn't say.

Cameras keep 10, 12 or 14 bits in numbers of 16. Thermal and X-ray pictures use a small part of their range, and floats
have none of their own. One rule for all: black is 0, and white the smallest of 2^8-1, 2^10-1, 2^12-1, 2^14-1 and 2^16-1
that no pixel exceeds. For floats 1 is tried first, and one pixel in a thousand may exceed what is white.

The darkest pixel is black and the brightest white where there are negative or still larger numbers, and where the
pixels lie within an eighth of that range; one in a thousand at either end doesn't count. A 16-bit picture that uses its
range stays as it is, and 8 bits are never touched.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

WHITES = tuple(float(2**bits - 1) for bits in (8, 10, 12, 14, 16))
OUTLIERS = 0.001  # of the pixels, at either end
NARROW = 1 / 8  # of the range from 0 to white
COMMON = (1.0, 255.0, 65535.0)
"""What is white in most pictures; any other range is told of."""


@dataclass(frozen=True)
class Levels:
    """The values that become black and white."""

    black: float
    white: float

    @property
    def usual(self) -> bool:
        """Whether they are those that most readers take."""
        return self.black == 0 and self.white in COMMON

    def __str__(self) -> str:
        return f"{self.black:.6g} to {self.white:.6g}"


def levels_of(values: npt.NDArray[Any]) -> Levels:
    """What is black and white among these numbers, by the rule above; those that are no numbers say nothing."""
    floats = values.dtype.kind == "f"
    known = values[np.isfinite(values)] if floats else values.ravel()
    if known.size == 0:
        return Levels(0, 1)
    low, high = _ends(known)
    darkest, brightest = (low, high) if floats else (float(known.min()), float(known.max()))
    whites = [white for white in ((1.0,) if floats else ()) + WHITES if brightest <= white]
    if darkest < 0 or not whites or 0 < high - low < NARROW * whites[0]:
        return Levels(low, high) if high > low else Levels(low, low + 1)
    return Levels(0, whites[0])


def _ends(known: npt.NDArray[Any]) -> tuple[float, float]:
    """The darkest and the brightest value, without the OUTLIERS."""
    few = int(known.size * OUTLIERS)
    places = (few, known.size - 1 - few)
    ordered = np.partition(known, places)
    return float(ordered[places[0]]), float(ordered[places[1]])


def in_eight_bits(values: npt.NDArray[Any], levels: Levels) -> npt.NDArray[np.uint8]:
    """The numbers scaled to 0 ... 255, clipped where they are beyond; what is no number counts as 0."""
    numbers = np.nan_to_num(values.astype(np.float32), posinf=levels.white, neginf=levels.black)
    numbers = np.clip(numbers, levels.black, levels.white, dtype=np.float32)
    scale = 255 / (levels.white - levels.black)
    return np.asarray(np.rint((numbers - levels.black) * scale), dtype=np.uint8)


# --- 16 bits a colour, of which Pillow reads the upper 8 ------------------------------------------------------------

_OTHER = {"B": "L", "L": "B", "N": "L" if sys.byteorder == "big" else "B"}


def lower_mode(raw: str) -> str | None:
    """How the lower 8 bits of each colour are read: as the upper ones of the other order of bytes. None where not."""
    kind, _, order = raw.rpartition(";16")
    return f"{kind};16{_OTHER[order]}" if kind in ("RGB", "RGBA", "RGBX") and order in _OTHER else None


def raw_mode(image: Image.Image) -> str:
    """How the pixels of an image that is opened and not yet loaded lie in its file; "" where that is not one way."""
    tiles = getattr(image, "tile", None) or []
    modes = {tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in tiles if tile[3]}
    mode = modes.pop() if len(modes) == 1 else ""
    return mode if isinstance(mode, str) else ""


def may_be_narrow(image: Image.Image) -> bool:
    """Whether the upper 8 bits of each colour use so little of their range that the lower ones are worth reading."""
    values = np.asarray(image)[..., :3]
    return int(values.max()) < 64 or int(values.max()) - int(values.min()) <= 255 * NARROW


def with_lower(image: Image.Image, raw: str, again: ImageFile.ImageFile) -> npt.NDArray[np.uint16] | None:
    """The colours of a loaded image in 16 bits `(height, width, 3 or 4)`; None where the lower bits can't be had.

    `again` is the same image, opened and not loaded.
    """
    lower = lower_mode(raw)
    if lower is None or raw_mode(again) != raw:
        return None
    again.tile = [
        tile._replace(args=lower if isinstance(tile.args, str) else (lower, *(tile.args or ())[1:]))
        for tile in again.tile
    ]
    again.load()
    upper, rest = (np.asarray(one).astype(np.uint16) for one in (image, again))
    return np.asarray(upper << 8 | rest, dtype=np.uint16) if upper.shape == rest.shape else None
