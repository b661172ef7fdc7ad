"""Writing a file so that there is never half of one: the one place from which outputs go to disk."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from fewshot_cli.errors import FewshotError


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place at the end of the `with`, or disappears if that raises.

    Whatever goes wrong, what was at `path` is still there. A link is followed, and stays. What is no regular file, as
    a pipe or a device, is written to at the end. Raises FewshotError where that can't be done.
    """
    try:
        if is_stream(path):
            with tempfile.TemporaryDirectory() as name:
                draft = Path(name) / "draft"
                draft.touch()
                yield draft
                with draft.open("rb") as content, path.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
            return
        target = _followed(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = _made(target.parent, lambda draft: draft.touch(0o666, exist_ok=False))
        try:
            yield draft
            _sync_file(draft)
            draft.replace(target)
            _sync_folder(target.parent)
        finally:
            draft.unlink(missing_ok=True)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        raise
    except OSError as error:
        raise _unwritable(path, error) from None


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place at the end of the `with`, or disappears if that raises.

    Whatever goes wrong, what was at `path` is still there; it is gone when the new folder is in its place. A link is
    followed, and stays. Raises FewshotError where the folder above can't be written.
    """
    try:
        target = _followed(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = _made(target.parent, Path.mkdir)
        try:
            yield draft
            for item in draft.rglob("*"):
                if item.is_file():
                    _sync_file(item)
            _sync_folder(draft)
            _take_place(draft, target)
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise _unwritable(path, error) from None


@contextmanager
def growing(path: Path) -> Iterator[TextIO]:
    """A text file to write line by line, which is at `path` once it is whole.

    Until then it is `PATH.partial`, and stays that where the writing is interrupted: so nothing takes the place of what
    was at `path` before, and nothing is lost. What is no regular file, as a pipe, gets every line at once. Text is
    UTF-8, as `write_atomically` writes it. Raises FewshotError where it can't be written.
    """
    stream = is_stream(path)
    target = path if stream else _followed(path)
    partial = path if stream else partial_path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="", buffering=1) as file:
            yield file
            file.flush()
            if not stream:
                os.fsync(file.fileno())
        if not stream:
            partial.replace(target)
            _sync_folder(target.parent)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _unwritable(path, error) from None


def partial_path(path: Path) -> Path:
    """Where the lines of a file are that is still growing."""
    return path.with_name(f"{path.name}.partial")


def is_stream(path: Path) -> bool:
    """Whether there is something at `path` to be written to that is no regular file: a pipe, a terminal, a device.

    What `/dev/stdout` and its like lead to is written to even if it is a file, as others may have written there.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISDIR(mode) and (not stat.S_ISREG(mode) or path.absolute().is_relative_to("/dev"))


def _followed(path: Path) -> Path:
    """Where the file is, or would be, that a link at `path` leads to."""
    try:
        return path.resolve() if path.is_symlink() else path
    except RuntimeError:  # what Python 3.11 and 3.12 make of it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None


def _made(folder: Path, make: Callable[[Path], object]) -> Path:
    """A path in the folder that nothing had, and that `make` has put something at, with the umask's permissions."""
    while True:
        draft = folder / f".{secrets.token_hex(6)}.part"
        with contextlib.suppress(FileExistsError):
            make(draft)
            return draft


def _sync_file(path: Path) -> None:
    """Sees to it that the file is on the disk. It is opened for writing, since Windows syncs no other handle."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Sees to it that the names in the folder are on the disk, where the system has a way to say that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _take_place(draft: Path, path: Path) -> None:
    """Renames the folder `draft` to `path`, and removes what was there once that is done."""
    if not path.exists():
        draft.rename(path)
        return
    former = draft.with_suffix(".old")
    path.rename(former)
    try:
        draft.rename(path)
    except BaseException:
        former.rename(path)
        raise
    shutil.rmtree(former, ignore_errors=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Puts `content` at `path`, whole or not at all. Raises FewshotError where that can't be done.

    Text is UTF-8; what can't be, as a byte in a file's name that is no UTF-8, is escaped as Python and JSON do.
    """
    with staged(path) as draft:
        draft.write_bytes(as_bytes(content) if isinstance(content, str) else content)


def as_bytes(text: str) -> bytes:
    """The text as `write_atomically` writes it."""
    return text.encode(errors="backslashreplace")


def check_writable(path: Path) -> None:
    """Raises FewshotError where `path` can't become a file, before any work is done for it."""
    if str(path) == "-":
        raise FewshotError("The output is called -, which is no file.", "Standard output is /dev/stdout.")
    try:
        if path.is_dir():
            hint = f"For example: -o {path / 'my.fewshot'}"
            raise FewshotError(f"{path} is a folder; the output must be a file.", hint)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise _unwritable(path, error) from None
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise FewshotError(f"{path} can't be written: permission denied.", "Choose another output with -o.")
        return
    check_parent_writable(path)


def check_parent_writable(path: Path) -> None:
    """Raises FewshotError where nothing can be put at `path`, or where a link there leads to."""
    try:
        path = _followed(path)
        existing = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        raise _unwritable(path, error) from None
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise FewshotError(
            f"{path} can't be written: {existing} is not a folder you may write to.", "Choose another output with -o."
        )


def _unwritable(path: Path, error: OSError) -> FewshotError:
    return FewshotError(
        f"{path} can't be written: {error.strerror or error}.", "Choose another output with -o, or make room."
    )
