"""The bytes of a picture's file, before anything is decoded."""

import hashlib
import io
import stat
from pathlib import Path
from typing import BinaryIO

from fewshot_cli.images.image_error import ImageError, explained


def content_hash(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal; raises ImageError when they can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise explained(error) from error


def file_bytes(path: Path, largest: int) -> bytes | None:
    """A file's bytes, or None where they are more than `largest`; raises ImageError when they can't be read."""
    try:
        with stream(path) as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise explained(error) from error
    return content if len(content) <= largest else None


def stream(source: Path | bytes) -> BinaryIO:
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
