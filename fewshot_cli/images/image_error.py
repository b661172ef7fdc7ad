"""What is said of a file that gives no picture: why, and what to do."""

import errno
import os
import re
import struct
import zlib
from typing import Literal

BadFile = Literal["unreadable", "truncated", "empty-file", "not-an-image", "not-read", "too-large"]

LARGEST = 200_000_000  # pixels: above every phone and camera of today, below what fills a laptop's memory

COPY_AGAIN = "Copy or download it again, or delete it."
SMALLER = f"Save a smaller copy; the limit is {LARGEST // 1_000_000} megapixels."

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


def damaged() -> ImageError:
    """The error of a file that is damaged or cut short."""
    return ImageError("truncated", "the file is damaged or ends too early", COPY_AGAIN)


def of_kind_not_read(format_: str) -> ImageError:
    """The error of a format that is known and not read."""
    return ImageError("not-read", f"a {format_} of a kind that isn't read", "Save it as PNG or JPEG.")


def too_large(width: int, height: int) -> ImageError:
    """The error of a picture of more pixels than are decoded."""
    return ImageError("too-large", f"too large: {width} x {height} pixels", SMALLER)


def explained(error: OSError) -> ImageError:
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
        return ImageError("truncated", "the file ends too early (truncated)", COPY_AGAIN)
    if _NO_DECODER.search(str(error)):
        return of_kind_not_read("picture")
    return damaged()


_NO_DECODER = re.compile(r"decoder \S+ not available")
