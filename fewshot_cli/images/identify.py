"""The image in a file, told by its first bytes and never by its name: its header is read, and no pixel yet."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from fewshot_cli.images.image_bytes import stream
from fewshot_cli.images.image_error import (
    DAMAGE,
    LARGEST,
    SMALLER,
    ImageError,
    damaged,
    explained,
    of_kind_not_read,
    too_large,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "QOI", "PSD")
# Two letters open these formats, so a note that begins with "BMW" looks like one; when they fail, it was no picture.
WEAKLY_SIGNED = ("BMP", "PPM")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHER_FORMAT = "Remove it from the folder, or save it as JPEG or PNG if it is a picture."


@contextmanager
def opened(source: Path | bytes) -> Iterator[Image.Image]:
    """The image in a file, or in a file's bytes, with its header read and no pixel yet.

    Whatever goes wrong inside is raised as ImageError.
    """
    try:
        with stream(source) as file, _identified(file, str(source) if isinstance(source, Path) else "") as image:
            yield image
    except Image.DecompressionBombError as error:
        raise ImageError("too-large", "too large: it unfolds to far more pixels than its size says", SMALLER) from error
    except OSError as error:
        raise explained(error) from error
    except DAMAGE as error:
        raise damaged() from error


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
                raise of_kind_not_read(format_) from error
            damage = damage if format_ in WEAKLY_SIGNED else error
    if start[4:8] == b"ftyp" and start[8:12] in HEIC_BRANDS:
        file.seek(0)
        return _small_enough(_heic_reader()(file, name))
    if damage is not None:
        raise damaged() from damage
    raise ImageError("not-an-image", "not an image that can be read", _OTHER_FORMAT)


_NOT_READ = re.compile(
    "unknown pixel mode|unknown data organization|cannot handle .*(layers|layer images)"
    "|Unsupported BMP (compression|pixel depth)"
)
"""What Pillow says of whole files that it doesn't read: numbers of a type, a depth or a compression that it lacks."""
_REDUCED = 254  # the TIFF tag of what a picture is; the lowest bit says a small copy of another one


def _whole(image: Image.Image) -> Image.Image:
    """The image; raises ImageError for the raw file of a camera, of which nothing but its thumbnail would be read."""
    if image.format == "TIFF" and int(image.tag_v2.get(_REDUCED) or 0) & 1:  # type: ignore[attr-defined]
        reason = "a camera's raw file, of which only a preview could be read"
        raise ImageError("not-read", reason, "Save it as PNG or JPEG.")
    return image


def _small_enough(image: Image.Image) -> Image.Image:
    if image.width * image.height > LARGEST:
        raise too_large(*image.size)
    return image


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
