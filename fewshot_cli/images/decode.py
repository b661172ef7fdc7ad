"""From an image to pixels: the one place where pictures are decoded, turned upright, resized and cropped."""

import errno
import hashlib
import io
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageFile

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images.depth import Levels, in_eight_bits, levels_of, lower_mode, may_be_narrow, raw_mode, with_lower

Pixels = npt.NDArray[np.uint8]
BadFile = Literal["unreadable", "truncated", "empty-file", "not-an-image", "not-read", "too-large"]

LARGEST = 200_000_000  # pixels: above every phone and camera of today, below what fills a laptop's memory
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "QOI", "PSD")
# Two letters open these formats, so a note that begins with "BMW" looks like one; when they fail, it was no picture.
WEAKLY_SIGNED = ("BMP", "PPM")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

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

# What Pillow's readers raise on damaged bytes, besides OSError.
DAMAGE = (
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    AttributeError,
    struct.error,
    zlib.error,
)


class ImageError(Exception):
    """One file that gives no picture: `reason` says why, `remedy` what to do, `kind` is for programs."""

    def __init__(self, kind: BadFile, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.kind: BadFile = kind
        self.reason = reason
        self.remedy = remedy


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
        raise _too_large(picture.shape[1], picture.shape[0])
    return Image.fromarray(picture)


def decode(path: Path, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The first picture of a file in RGB, upright, whatever its format, mode, orientation and transparency.

    With `at_least` = (height, width) a JPEG may come at 1/2, 1/4 or 1/8 of its size, as long as it is no smaller than
    that; this is what makes large photos quick. Raises ImageError when the file gives no picture.
    """
    with opened(path) as image:
        return upright_rgb(image, at_least).image


@contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """The image in a file, or in a file's bytes, with its header read and no pixel yet.

    Whatever goes wrong inside is raised as ImageError.
    """
    try:
        with _stream(source) as file, _identified(file, str(source) if isinstance(source, Path) else "") as image:
            yield image
    except Image.DecompressionBombError as error:
        raise ImageError(
            "too-large", "too large: it unfolds to far more pixels than its size says", _SMALLER
        ) from error
    except OSError as error:
        raise _explained(error) from error
    except DAMAGE as error:
        raise ImageError("truncated", "the file is damaged or ends too early", _COPY_AGAIN) from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that makes sense."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except (OSError, *DAMAGE):  # a broken EXIF block must not cost the picture
        return 1
    return value if value in TURNS else 1


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
        image, levels = _deep_colours(image, raw, file)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, levels = _deep_greys(image)
    rgb = _rgb(image)
    if turned in TURNS:
        rgb = rgb.transpose(TURNS[turned])
    if fraction == 1:
        return Draft(rgb, (0, 0, *rgb.size), rgb.size, levels)
    whole = stored[::-1] if turned in SWAPS_SIDES else stored
    # What a fraction leaves over lies to the right and below, before turning.
    left = rgb.width - whole[0] / fraction if turned in (2, 3, 6, 7) else 0
    top = rgb.height - whole[1] / fraction if turned in (3, 4, 7, 8) else 0
    return Draft(rgb, (left, top, left + whole[0] / fraction, top + whole[1] / fraction), whole)


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


def content_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal; raises ImageError when they can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _explained(error) from error


def file_bytes(path: Path, largest: int) -> bytes | None:
    """A file's bytes, or None where they are more than `largest`; raises ImageError when they can't be read."""
    try:
        with _stream(path) as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise _explained(error) from error
    return content if len(content) <= largest else None


# --- opening -------------------------------------------------------------------------------------------------------


_COPY_AGAIN = "Copy or download it again, or delete it."
_SMALLER = f"Save a smaller copy; the limit is {LARGEST // 1_000_000} megapixels."
_OTHER_FORMAT = "Remove it from the folder, or save it as JPEG or PNG if it is a picture."


def _loaded(source: Path | bytes, preprocessing: Preprocessing) -> Pixels:
    height, width = _resized_target(preprocessing)
    with opened(source) as image:
        draft = upright_rgb(image, (math.ceil(height * DRAFT_MARGIN), math.ceil(width * DRAFT_MARGIN)))
    return prepare_draft(draft, preprocessing)


def _stream(source: Path | bytes) -> BinaryIO:
    """What `source` holds, to read from; raises ImageError where it holds nothing, or is no file."""
    if isinstance(source, Path):
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("unreadable", "a folder, not a file", "Give the files in it, or the folder that holds it.")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("unreadable", "not a regular file (a device or a pipe)", "Save the picture as a file.")
        size = status.st_size
    else:
        size = len(source)
    if size == 0:
        raise ImageError("empty-file", "the file is empty (0 bytes)", "Copy it again from where it came, or delete it.")
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _identified(file: BinaryIO, name: str) -> Image.Image:
    """The image in an open file, by its first bytes and never by its name, which is "" where it lies in memory.

    Pillow maps some formats from the file that `name` names, so a made-up name could give another file's pixels.

    Not `Image.open`, for three reasons: its limit on pixels is a global, warns at half, and refuses photos of phones
    with 200 megapixels; it would run Ghostscript on a file; and it does not say whether a known format was damaged.
    """
    Image.init()
    start = file.read(16)
    damage: Exception | None = None
    for format_ in FORMATS:
        if format_ not in Image.OPEN:  # this Pillow was built without it
            continue
        reader, accept = Image.OPEN[format_]
        if accept is not None and accept(start) is not True:
            continue
        file.seek(0)
        try:
            return _small_enough(_whole(reader(file, name)))
        except (OSError, *DAMAGE) as error:
            if _NOT_READ.search(str(error)) or (format_ == "PSD" and isinstance(error, KeyError)):
                raise _of_kind_not_read(format_) from error
            damage = damage if format_ in WEAKLY_SIGNED else error
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS:
        file.seek(0)
        return _small_enough(_heic_reader()(file, name))
    if damage is not None:
        raise ImageError("truncated", "the file is damaged or ends too early", _COPY_AGAIN) from damage
    raise ImageError("not-an-image", "not an image that can be read", _OTHER_FORMAT)


_NOT_READ = re.compile(
    "unknown pixel mode|unknown data organization|cannot handle .*(layers|layer images)"
    "|Unsupported BMP (compression|pixel depth)"
)
"""What Pillow says of whole files that it doesn't read: numbers of a type, a depth or a compression that it lacks."""
_REDUCED = 254  # the TIFF tag of what a picture is; the lowest bit says a small copy of another one


def _of_kind_not_read(format_: str | None) -> ImageError:
    return ImageError("not-read", f"a {format_} of a kind that isn't read", "Save it as PNG or JPEG.")


def _whole(image: Image.Image) -> Image.Image:
    """The image; raises ImageError for the raw file of a camera, of which nothing but its thumbnail would be read."""
    if image.format == "TIFF" and int(image.tag_v2.get(_REDUCED) or 0) & 1:  # type: ignore[attr-defined]
        reason = "a camera's raw file, of which only a preview could be read"
        raise ImageError("not-read", reason, "Save it as PNG or JPEG.")
    return image


def _small_enough(image: Image.Image) -> Image.Image:
    if image.width * image.height > LARGEST:
        raise _too_large(*image.size)
    return image


def _too_large(width: int, height: int) -> ImageError:
    return ImageError("too-large", f"too large: {width} x {height} pixels", _SMALLER)


def _heic_reader() -> Callable[[BinaryIO, str], Image.Image]:
    """pillow-heif's image class, used without registering it: other code's `Image.open` stays as it was."""
    try:
        reader: Callable[[BinaryIO, str], Image.Image] = import_module("pillow_heif").HeifImageFile
    except ImportError as error:
        raise ImageError(
            "unreadable",
            "a HEIC photo, and the part that reads HEIC is not installed",
            "Run: pip install 'fewshot-cli[heic]', or save the photo as JPEG.",
        ) from error
    return reader


def _explained(error: OSError) -> ImageError:
    """The ImageError for what the operating system or Pillow said."""
    if error.errno == errno.ENOENT:
        return ImageError(
            "unreadable", "there is no such file", "Check the path; a link may point to a file that moved."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ImageError("unreadable", "permission denied", "Allow yourself to read it, for instance with chmod u+r.")
    if error.errno is not None:
        why = os.strerror(error.errno).lower()
        return ImageError(
            "unreadable", f"the file can't be read: {why}", "Check the disk and the path, then try again."
        )
    if "truncated" in str(error).lower():
        return ImageError("truncated", "the file ends too early (truncated)", _COPY_AGAIN)
    if _NO_DECODER.search(str(error)):
        return _of_kind_not_read("picture")
    return ImageError("truncated", "the file is damaged or ends too early", _COPY_AGAIN)


_NO_DECODER = re.compile(r"decoder \S+ not available")


# --- colours -------------------------------------------------------------------------------------------------------


def _rgb(image: Image.Image) -> Image.Image:
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


def _deep_greys(image: Image.Image) -> tuple[Image.Image, Levels]:
    """Grey of 16 or 32 bits or of floats in 8 bits, and what became black and white."""
    values = np.asarray(image)
    levels = levels_of(values)
    greys = in_eight_bits(values, levels)
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    return Image.fromarray(255 - greys if white_is_zero else greys), levels


def _deep_colours(image: Image.Image, raw: str, file: BinaryIO) -> tuple[Image.Image, Levels | None]:
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


# --- geometry, as in timm.data.transforms_factory.transforms_imagenet_eval ------------------------------------------


def _resized_target(preprocessing: Preprocessing) -> tuple[int, int]:
    """What the picture is resized to fill or to fit, (height, width), before the crop."""
    height, width = preprocessing.size
    return math.floor(height / preprocessing.crop_fraction), math.floor(width / preprocessing.crop_fraction)


def _resized_size(whole: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """The (height, width) after resizing of a picture that is `whole` (width, height)."""
    whole_width, whole_height = whole
    height, width = _resized_target(preprocessing)
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
