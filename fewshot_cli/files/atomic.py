"""Writing a file so that there is never half of one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fewshot_cli.errors import FewshotError


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place at the end of the `with`, or disappears if that raises.

    Whatever goes wrong, what was at `path` is still there. Raises FewshotError where the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        os.close(descriptor)
    except OSError as error:
        raise _unwritable(path, error) from None
    draft = Path(name)
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.chmod(0o666 & ~_umask())  # mkstemp makes it private
        draft.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place at the end of the `with`, or disappears if that raises.

    Whatever goes wrong, what was at `path` is still there; it is gone when the new folder is in its place. Raises
    FewshotError where the folder above can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".", suffix=".part", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        yield draft
        for item in draft.iterdir():
            with item.open("rb") as file:
                os.fsync(file.fileno())
        draft.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        _take_place(draft, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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
    try:
        if path.is_dir():
            hint = f"For example: -o {path / 'my.fewshot'}"
            raise FewshotError(f"{path} is a folder; the output must be a file.", hint)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise _unwritable(path, error) from None
    check_parent_writable(path)


def check_parent_writable(path: Path) -> None:
    """Raises FewshotError where nothing can be put at `path`."""
    try:
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
