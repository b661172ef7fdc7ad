"""From an image of any mode to RGB in 8 bits."""

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms

from fewshot_cli.images.depth import Levels, in_eight_bits, levels_of, with_lower


def as_rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode in RGB: white under what is transparent."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(*profiles, "LAB", "RGB").apply(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.convert("RGB")


def deep_greys(image: Image.Image) -> tuple[Image.Image, Levels]:
    """Grey of 16 or 32 bits or of floats in 8 bits, and what became black and white."""
    values = np.asarray(image)
    levels = levels_of(values)
    greys = in_eight_bits(values, levels)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    return Image.fromarray(255 - greys if white_is_zero else greys), levels


def deep_colours(image: Image.Image, raw: str, file: BinaryIO) -> tuple[Image.Image, Levels | None]:
    """A loaded image of 16 bits a colour whose upper 8 say little, from all of them; as it was where these do do."""
    file.seek(0)
    deep = with_lower(image, raw, type(image)(file, ""))  # type: ignore[arg-type, call-arg]
    levels = levels_of(deep[..., :3]) if deep is not None else Levels(0, 65535)
    if deep is None or levels == Levels(0, 65535):
        return image, None
    scaled = in_eight_bits(deep[..., :3], levels)
    if deep.shape[2] == 4:
        scaled = np.concatenate([scaled, np.asarray(image)[..., 3:]], axis=2)
    return Image.fromarray(scaled), levels


_PHOTOMETRIC = 262  # the TIFF tag; 0 says that 0 is white, which Pillow heeds up to 8 bits
