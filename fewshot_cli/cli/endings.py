"""How a command that fails ends: one message, and an exit code for each kind of failure."""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from fewshot_cli.cli.outputs import OUTPUTS
from fewshot_cli.errors import FewshotError, Terminated

INTERRUPTED, TERMINATED = 130, 143
"""As shells count: 128 and the number of the signal."""

FileStates = dict[Path, tuple[int, int, int]]


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """A context in which the signal that ends a process politely raises Terminated, so that nothing is left half."""
    if threading.current_thread() is not threading.main_thread():  # no other thread may listen
        yield
        return

    def heard(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_error(error: FewshotError) -> int:
    """Prints what is wrong and what to do, and gives the exit code."""
    from fewshot_cli.reports.printable import printable

    for line in f"Error: {error.problem}\n{error.hint}".rstrip().split("\n"):
        print(printable(line), file=sys.stderr)
    return error.exit_code


def stopped(stop: KeyboardInterrupt, outputs: FileStates, given: Mapping[str, Any]) -> int:
    """Prints what a signal left behind, and gives the exit code. `outputs` are those that were there before."""
    word = "Terminated" if isinstance(stop, Terminated) else "Interrupted"
    with suppress(OSError):
        print(f"{word}; {stop if stop.args else _left(outputs, outputs_of(given))}", file=sys.stderr, flush=True)
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def outputs_of(given: Mapping[str, Any]) -> FileStates:
    """The outputs among a command's parameters that are there, and the records beside them, as they are now."""
    named = [value for name, value in given.items() if name in OUTPUTS and isinstance(value, Path)]
    found: FileStates = {}
    for path in (file for output in named for file in (output, Path(f"{output}.run.json"))):
        with suppress(OSError, ValueError):
            status = path.stat()
            found[path] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return found


def _left(before: FileStates, now: FileStates) -> str:
    written = [path for path, status in now.items() if before.get(path) != status]
    if any(path.is_dir() for path in written):
        return f"{', '.join(str(path) for path in written if path.is_dir())} holds only what was done until then."
    if written:
        return f"by then {' and '.join(map(str, written))} {'was' if len(written) == 1 else 'were'} written."
    return "nothing was written."


def is_unheard() -> bool:
    """Whether whoever reads our output, or our messages, has gone; then both lead nowhere from now on."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
            left = _has_no_reader(stream)
        except BrokenPipeError:
            left = True
        if left:
            gone = True
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone


def _has_no_reader(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads: without a buffer, as with PYTHONUNBUFFERED, a flush can't tell."""
    if not hasattr(select, "poll"):
        return False
    try:
        polled = select.poll()
        polled.register(stream.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in polled.poll(0))
    except (OSError, ValueError):
        return False


def without_memory(error: BaseException) -> FewshotError | None:
    """What to say where there is too little memory; None for any other error. torch is not asked, nor imported."""
    text = next(iter(str(error).splitlines()), "")
    if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.partition(".")[0] == "torch":
        return FewshotError(
            f"The GPU has too little memory: {text}",
            "Use a smaller --image-size, a smaller batch in the recipe or another --backbone; end what else uses the "
            "GPU; or compute with --device cpu.",
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in text):
        return FewshotError(
            "This machine has too little memory." if not text else f"This machine has too little memory: {text}",
            "Use a smaller --image-size, fewer images or another --backbone, or a machine with more.",
        )
    return None
