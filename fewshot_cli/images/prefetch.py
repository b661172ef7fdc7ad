"""Many files at once: decoded by a few threads, handed out in order, never far ahead of the consumer."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images.decode import load
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.resize import Pixels

Given = TypeVar("Given")
Result = TypeVar("Result")

RULES = 3  # of decoding; raised when the same file and the same Pillow come to give other pixels
DECODERS = ("pillow", "pillow-heif")  # packages that decide what a file decodes to, and which files do
LOOK_AHEAD = 64  # results that may wait for the consumer; at 224 pixels about 10 MB


def load_all(
    paths: Sequence[Path], preprocessing: Preprocessing, workers: int | None = None
) -> Iterator[Pixels | ImageError]:
    """For each path, in order, the picture `(3, height, width)` or the ImageError that says why there is none."""

    def load_or_explain(path: Path) -> Pixels | ImageError:
        try:
            return load(path, preprocessing)
        except ImageError as error:
            # The traceback would keep the half-read picture alive for as long as the error is listed.
            return error.with_traceback(None)

    return in_order(load_or_explain, paths, workers)


def in_order(
    function: Callable[[Given], Result], items: Iterable[Given], workers: int | None = None
) -> Iterator[Result]:
    """The function of each item, in order, computed by threads at most `LOOK_AHEAD` items ahead.

    Whatever the function raises is raised where its result is due. Closing the iterator early drops what has not begun.
    """
    executor = ThreadPoolExecutor(workers or default_workers(), thread_name_prefix="fewshot-images")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(waiting) == LOOK_AHEAD:
                yield waiting.popleft().result()
            waiting.append(executor.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """The processors this process may use, 8 at most: decoding waits for memory before it waits for a ninth core."""
    count = getattr(os, "process_cpu_count", os.cpu_count)  # the former knows about limits, from Python 3.13 on
    return min(count() or 1, 8)


def decoders() -> list[object]:
    """What decides, besides a file and its preparation, which pixels it gives: our rules and the packages' versions."""
    return [RULES, *map(_installed, DECODERS)]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
