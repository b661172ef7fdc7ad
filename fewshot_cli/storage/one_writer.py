"""A lock beside an output: of two commands that would write the same file at the same time, one is refused."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.atomic import is_stream


@contextlib.contextmanager
def one_writer(output: Path) -> Iterator[None]:
    """Held by the one command that writes `output`, however its path is spelled.

    Raises FewshotError where another command holds it; several may write to a pipe or a device. A command that was
    killed holds nothing. Where the file system has no locks, or the folder can't be written, nothing is held: writing
    will tell.
    """
    if is_stream(output):
        yield
        return
    path = _lock_path(output)
    missing = [folder for folder in path.parents if not folder.exists()]
    lock = _acquired(path)
    try:
        yield
    finally:
        if lock is not None:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
            lock.release()
        with contextlib.suppress(OSError):  # one that holds something stays
            for folder in missing:
                folder.rmdir()


def _lock_path(output: Path) -> Path:
    real = output.resolve()
    return real.with_name(f".{real.name}.lock")


def _acquired(path: Path) -> FileLock | None:
    while True:
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise FewshotError(
                f"Another command is writing {path.name.removeprefix('.').removesuffix('.lock')} in {path.parent}.",
                "Wait until it is done, or choose another output with -o.",
            ) from None
        except (OSError, NotImplementedError):
            return None
        if path.exists():
            return lock
        lock.release()  # it was removed by its last holder just before we got it
