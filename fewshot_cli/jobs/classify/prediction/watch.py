"""New pictures in a folder, as they come: asked for every second, which works on network drives, too."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import IMAGE_SUFFIXES, find_images

EVERY = 1.0  # seconds

Stamp = tuple[int, int]
"""A file's size and when it was last written."""


def new_pictures(folder: Path, sleep: Callable[[float], object] = time.sleep) -> Iterator[list[Path]]:
    """The pictures that come into the folder or below from now on, once they are whole, some at a time, without end.

    One is whole when nothing was written to it for a second. One that is written anew comes again. What lies there at
    first is not new; a folder that goes away may come back.
    """
    return _after(_stamps(folder), folder, sleep)


def _after(known: dict[Path, Stamp], folder: Path, sleep: Callable[[float], object]) -> Iterator[list[Path]]:
    """The pictures that are not `known`, or no longer of that stamp."""
    last = dict(known)
    while True:
        sleep(EVERY)
        now = _stamps(folder)
        whole = [path for path, stamp in now.items() if last.get(path) == stamp and known.get(path) != stamp]
        if whole:
            known |= {path: now[path] for path in whole}
            yield whole
        last = now


def _stamps(folder: Path) -> dict[Path, Stamp]:
    """Of every picture in the folder that is not empty."""
    found: dict[Path, Stamp] = {}
    with suppress(OSError, FewshotError):  # a network drive that is away for a while
        for path in find_images([folder]) if folder.is_dir() else []:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                with suppress(OSError):
                    status = path.stat()
                    if status.st_size:
                        found[path] = status.st_size, status.st_mtime_ns
    return found
