"""What is kept between runs: features of images already seen, decoded pictures. Safe to delete at any time."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fewshot_cli.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from filelock import FileLock

    Features: TypeAlias = npt.NDArray[np.float32]
    Pixels: TypeAlias = npt.NDArray[np.uint8]

LARGEST_FEATURES = 2 << 30  # bytes
LARGEST_PICTURES = 20 << 30


def cache_folder() -> Path:
    """The folder named by FEWSHOT_CACHE, or the user's cache folder."""
    named = os.path.expanduser(os.environ.get("FEWSHOT_CACHE", ""))  # noqa: PTH111  no shell has seen it in some files
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("fewshot", appauthor=False))


class FeatureCache:
    """Features by content of the image file and model, and in a file beside them decoded pictures."""

    def __init__(self, path: Path | None = None, largest: int = LARGEST_FEATURES) -> None:
        self.path = path or cache_folder() / "features.sqlite"
        self.pictures = PictureCache(self.path.with_name("pictures.sqlite"))
        self.store = Store(self.path, largest)

    def load(self, model: str, contents: Sequence[str]) -> "dict[str, Features]":
        """The features `(dim,)` float32 known of these contents (hashes of image files) under `model`, by content."""
        import numpy as np

        found = self.store.load(model, contents)
        return {content: np.frombuffer(value, dtype="<f4") for content, value in found.items()}

    def save(self, model: str, features: "Mapping[str, Features]") -> None:
        """Keeps the features of these contents."""
        self.store.save(model, {content: values.astype("<f4").tobytes() for content, values in features.items()})

    def close(self) -> None:
        """Writes down what was used, and lets go of both files."""
        self.store.close()
        self.pictures.store.close()

    @contextlib.contextmanager
    def alone(self, name: str, waiting: AbstractContextManager[object]) -> Iterator[None]:
        """Waits until no other process is in here under this name, inside of `waiting` if that takes time.

        The system frees the lock of a process that dies. Where there are no locks, nobody waits.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path.with_name(f"{name}.lock"))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                with waiting:
                    lock.acquire()
        except (OSError, NotImplementedError):
            yield
            return
        try:
            yield
        finally:
            _released(lock)


class PictureCache:
    """Decoded pictures by content of the image file and preparation."""

    def __init__(self, path: Path, largest: int = LARGEST_PICTURES) -> None:
        self.store = Store(path, largest)

    def load(self, preparation: str, contents: Sequence[str], shape: tuple[int, ...]) -> "dict[str, Pixels]":
        """The pictures of this shape known of these contents, read-only."""
        import numpy as np

        found = self.store.load(preparation, contents)
        return {content: np.frombuffer(value, dtype=np.uint8).reshape(shape) for content, value in found.items()}

    def holds(self, preparation: str, contents: Sequence[str]) -> set[str]:
        """Which of these contents are known."""
        return self.store.holds(preparation, contents)

    def save(self, preparation: str, pictures: "Mapping[str, Pixels]") -> bool:
        """Keeps the pictures of these contents; whether that was possible."""
        return self.store.save(preparation, {content: picture.tobytes() for content, picture in pictures.items()})


def _released(lock: "FileLock") -> None:
    """Gives a lock back, and its file away: who waits for it sees that, or at worst does the work again."""
    path = Path(lock.lock_file)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)  # Windows does not let go of an open file
    lock.release()
    if os.name == "nt":
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


class NoCache(FeatureCache):
    """Remembers nothing."""

    def __init__(self) -> None:
        self.pictures = NoPictures()

    def load(self, model: str, contents: Sequence[str]) -> "dict[str, Features]":
        return {}

    def save(self, model: str, features: "Mapping[str, Features]") -> None: ...

    def close(self) -> None: ...

    @contextlib.contextmanager
    def alone(self, name: str, waiting: AbstractContextManager[object]) -> Iterator[None]:
        yield


class NoPictures(PictureCache):
    """Remembers no picture."""

    def __init__(self) -> None: ...

    def load(self, preparation: str, contents: Sequence[str], shape: tuple[int, ...]) -> "dict[str, Pixels]":
        return {}

    def holds(self, preparation: str, contents: Sequence[str]) -> set[str]:
        return set()

    def save(self, preparation: str, pictures: "Mapping[str, Pixels]") -> bool:
        return False
