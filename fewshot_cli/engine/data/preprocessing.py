"""How a picture becomes what a backbone expects: the numbers only, so that files can carry them."""

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "hamming", "box"]


@dataclass(frozen=True)
class Preprocessing:
    """timm's evaluation transform of one model: resize, crop the centre, scale to [0, 1], less `mean`, over `std`.

    `size` is (height, width) in pixels. The resized picture is `size / crop_fraction`; `crop_mode` says how it gets
    there: "center" resizes the short side and crops, "squash" resizes both sides and crops, "border" fits the long
    side and fills the rest with the mean colour.
    """

    size: tuple[int, int]
    crop_fraction: float
    crop_mode: Literal["center", "squash", "border"]
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
