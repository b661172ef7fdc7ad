"""From an image to pixels: the one place where pictures are decoded and turned upright."""

import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images.colours import as_rgb, deep_colours, deep_greys
from fewshot_cli.images.depth import lower_mode, may_be_narrow, raw_mode
from fewshot_cli.images.identify import opened
from fewshot_cli.images.image_error import DAMAGE, LARGEST, ImageError, too_large
from fewshot_cli.images.resize import Draft, Pixels, prepare, prepare_draft, resized_target

# A JPEG is decoded at 1/2, 1/4 or 1/8 when that is still DRAFT_MARGIN times the picture wanted. Measured on enlarged
# photos of 12 megapixels with coarse grain: the mean change against the full decode is at most 1.0 grey levels with a
# margin of 1, 0.9 with 1.2, 0.75 with 1.4 and 0.1 with 3. With 1.5 the common case, 4000 x 3000 pixels for 256, would
# no longer be read at 1/8, and take a third longer. See benchmarks/decode.py.
DRAFT_MARGIN = 1.4

# EXIF orientation -> what makes the picture upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = (5, 6, 7, 8)
ORIENTATION = 0x0112


def load(path: Path, preprocessing: Preprocessing) -> Pixels:
    """The picture in a file as the backbone sees it, `(3, height, width)`, before scaling and normalising.

    Raises ImageError when the file gives no picture.
    """
    return _loaded(path, preprocessing)


def load_bytes(content: bytes, preprocessing: Preprocessing) -> Pixels:
    """What `load` gives for a file of these bytes."""
    return _loaded(content, preprocessing)


def load_array(picture: Pixels, preprocessing: Preprocessing) -> Pixels:
    """What `load` gives for a file that holds exactly these colours, `(height, width, 3)` in RGB.

    Raises ImageError for an array of any other kind.
    """
    return prepare(image_of(picture), preprocessing)


def image_of(picture: Pixels) -> Image.Image:
    """The image with these colours, `(height, width, 3)` in RGB; raises ImageError for an array of any other kind."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        what = f"an array of {picture.dtype} and shape {picture.shape}, not RGB in 8 bits"
        raise ImageError("not-an-image", what, "Convert it to uint8 of shape (height, width, 3).")
    if picture.shape[0] * picture.shape[1] > LARGEST:
        raise too_large(picture.shape[1], picture.shape[0])
    return Image.fromarray(picture)


def decode(path: Path, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The first picture of a file in RGB, upright, whatever its format, mode, orientation and transparency.

    With `at_least` = (height, width) a JPEG may come at 1/2, 1/4 or 1/8 of its size, as long as it is no smaller than
    that; this is what makes large photos quick. Raises ImageError when the file gives no picture.
    """
    with opened(path) as image:
        return upright_rgb(image, at_least).image


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that makes sense."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except (OSError, *DAMAGE):  # a broken EXIF block must not cost the picture
        return 1
    return value if value in TURNS else 1


def upright_rgb(image: Image.Image, at_least: tuple[int, int] | None = None) -> Draft:
    """The pixels of an opened image in RGB and upright; see `decode`."""
    stored = image.size
    fraction = 1.0
    # Other formats have drafts too, but a HEIC photo's is its thumbnail, compressed for a glance.
    if at_least is not None and isinstance(image, ImageFile.ImageFile) and image.format in ("JPEG", "MPO"):
        height, width = at_least if orientation(image) not in SWAPS_SIDES else at_least[::-1]
        if drafted := image.draft(None, (width, height)):
            fraction = stored[0] / drafted[1][2]
    raw, file = raw_mode(image), getattr(image, "fp", None)
    image.load()
    turned = orientation(image)  # after loading: Pillow turns TIFF by itself and then says 1
    levels = None
    if lower_mode(raw) and file is not None and may_be_narrow(image):
        image, levels = deep_colours(image, raw, file)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, levels = deep_greys(image)
    rgb = as_rgb(image)
    if turned in TURNS:
        rgb = rgb.transpose(TURNS[turned])
    if fraction == 1:
        return Draft(rgb, (0, 0, *rgb.size), rgb.size, levels)
    whole = stored[::-1] if turned in SWAPS_SIDES else stored
    # What a fraction leaves over lies to the right and below, before turning.
    left = rgb.width - whole[0] / fraction if turned in (2, 3, 6, 7) else 0
    top = rgb.height - whole[1] / fraction if turned in (3, 4, 7, 8) else 0
    return Draft(rgb, (left, top, left + whole[0] / fraction, top + whole[1] / fraction), whole)


def _loaded(source: Path | bytes, preprocessing: Preprocessing) -> Pixels:
    height, width = resized_target(preprocessing)
    with opened(source) as image:
        draft = upright_rgb(image, (math.ceil(height * DRAFT_MARGIN), math.ceil(width * DRAFT_MARGIN)))
    return prepare_draft(draft, preprocessing)
