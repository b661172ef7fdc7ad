"""From an upright picture to what a backbone sees, resized and cropped in one go, as timm's evaluation has it."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images.depth import Levels

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Draft:
    """An upright RGB picture, perhaps at a fraction: in `image`, `box` is what holds the `whole` (width, height).

    A side of 3001 pixels at 1/8 comes as 376 pixels, of which the picture fills 375.125; without that, crisp edges land
    half a pixel off. `levels` are what became black and white, where that was more than 8 bits.
    """

    image: Image.Image
    box: tuple[float, float, float, float]
    whole: tuple[int, int]
    levels: Levels | None = None


def prepare(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """The RGB picture resized and cropped as timm's evaluation transform does it, `(3, height, width)`.

    One resize does both: only the pixels that survive the crop are computed. It differs from timm by the rounding of
    Pillow's two passes, whose order depends on how much is kept: one grey level here and there, and a few more only
    where bicubic or Lanczos overshoots beyond black or white (1 in 10 000 pixels of a photo at most).
    """
    return prepare_draft(Draft(image, (0, 0, *image.size), image.size), preprocessing)


def prepare_draft(draft: Draft, preprocessing: Preprocessing) -> Pixels:
    """What `prepare` gives for the whole picture, from its draft."""
    height, width = preprocessing.size
    resized_height, resized_width = _resized_size(draft.whole, preprocessing)
    top, bottom, space_above = _window(resized_height, height)
    left, right, space_left = _window(resized_width, width)
    filter_ = Image.Resampling[preprocessing.interpolation.upper()]
    if filter_ in (Image.Resampling.NEAREST, Image.Resampling.BOX):
        # These two jump from pixel to pixel, and a box rounded to 32-bit floats would move some of their jumps.
        resized = draft.image.resize((resized_width, resized_height), filter_, draft.box)
        part = resized.crop((left, top, right, bottom))
    else:
        x0, y0, x1, y1 = draft.box
        across, down = (x1 - x0) / resized_width, (y1 - y0) / resized_height
        # The last bits of a sum must not lead outside of the picture.
        box = (x0 + left * across, y0 + top * down, min(x0 + right * across, x1), min(y0 + bottom * down, y1))
        part = draft.image.resize((right - left, bottom - top), filter_, box)
    if part.size != (width, height):
        canvas = Image.new("RGB", (width, height), _margin_colour(preprocessing))
        canvas.paste(part, (space_left, space_above))
        part = canvas
    return np.ascontiguousarray(np.asarray(part).transpose(2, 0, 1))


# --- geometry, as in timm.data.transforms_factory.transforms_imagenet_eval ------------------------------------------


def resized_target(preprocessing: Preprocessing) -> tuple[int, int]:
    """What the picture is resized to fill or to fit, (height, width), before the crop."""
    height, width = preprocessing.size
    return math.floor(height / preprocessing.crop_fraction), math.floor(width / preprocessing.crop_fraction)


def _resized_size(whole: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """The (height, width) after resizing of a picture that is `whole` (width, height)."""
    whole_width, whole_height = whole
    height, width = resized_target(preprocessing)
    if preprocessing.crop_mode == "squash":
        return height, width
    if preprocessing.crop_mode == "center" and height == width:
        short, long = sorted(whole)
        longer = int(height * long / short)
        return (height, longer) if whole_width >= whole_height else (longer, height)
    ratios = whole_height / height, whole_width / width
    ratio = max(ratios) if preprocessing.crop_mode == "border" else min(ratios)
    # Never 0, where timm fails: a strip of 1000 x 1 pixels still gives a line.
    return max(1, round(whole_height / ratio)), max(1, round(whole_width / ratio))


def _window(resized: int, wanted: int) -> tuple[int, int, int]:
    """The first and last (exclusive) resized pixel kept along one side, and the empty pixels before them."""
    if resized < wanted:
        return 0, resized, (wanted - resized) // 2
    start = round((resized - wanted) / 2)
    return start, start + wanted, 0


def _margin_colour(preprocessing: Preprocessing) -> tuple[int, int, int]:
    if preprocessing.crop_mode != "border":
        return (0, 0, 0)
    red, green, blue = (round(255 * value) for value in preprocessing.mean)
    return red, green, blue
