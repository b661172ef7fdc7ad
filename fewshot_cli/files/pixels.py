"""Decoded pictures kept between runs: one array a data set and size, mapped from disk. Safe to delete at any time."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.files.cache import cache_folder

Pixels = npt.NDArray[np.uint8]

LARGEST = 20 << 30  # bytes of pictures kept; those not used for longest go first
FORMAT = 1
CHECKED_ROWS = 64  # pictures whose checksum is compared at each opening: all would be read for nothing
DECODERS = ("pillow", "pillow-heif")  # packages that decide what a file decodes to, and which files do


@dataclass(frozen=True, eq=False)
class DecodedPictures:
    """`(n, 3, height, width)`, read-only; the rows of pictures that can't be read are zero, and here is why."""

    pixels: Pixels
    unreadable: Mapping[int, str]


def decoded(
    contents: Sequence[str],
    preprocessing: Preprocessing,
    load: Callable[[], Iterator[Pixels | Exception]],
    advance: Callable[[int, int], None],
    keep: bool = True,
) -> DecodedPictures:
    """The pictures with these content hashes, in order: as kept on disk, else as `load` gives them, and kept then.

    `load` gives for each content its picture, or what makes it unreadable; `advance` is told how many of how many are
    decoded. Of several processes that ask for the same pictures one decodes, and the others wait. Where nothing can be
    kept, as on a full disk, the pictures come in memory; without `keep` they do, and nothing is read or written.
    """
    entry = _Entry(cache_folder() / "pixels", _key(contents, preprocessing), (len(contents), 3, *preprocessing.size))

    def pictures() -> Iterator[Pixels | Exception]:
        for done, picture in enumerate(load(), 1):
            if not isinstance(picture, Exception) and (picture.shape != entry.shape[1:] or picture.dtype != np.uint8):
                raise ValueError(
                    f"picture {done} is {picture.dtype} of shape {picture.shape}, not of {entry.shape[1:]}"
                )
            yield picture
            advance(done, len(contents))

    if not contents:
        return _frozen(np.zeros(entry.shape, dtype=np.uint8), {})
    if not keep:
        return _in_memory(entry, pictures())
    if (found := _read(entry)) is not None:
        return found
    with contextlib.suppress(_CannotKeep), _alone(entry):
        return _read(entry) or _written(entry, pictures())
    return _in_memory(entry, pictures())


# --- where it lies -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """The array of one key on disk, in numpy's format, and beside it, in JSON, what else is known of it."""

    folder: Path
    key: str
    shape: tuple[int, int, int, int]

    @property
    def array(self) -> Path:
        return self.folder / f"{self.key}.npy"

    @property
    def notes(self) -> Path:
        return self.folder / f"{self.key}.json"

    @cached_property
    def header(self) -> bytes:
        """What numpy writes before the pixels."""
        start = io.BytesIO()
        facts = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(start, facts)
        return start.getvalue()

    @property
    def size(self) -> int:
        """Bytes on disk."""
        rows, channels, height, width = self.shape
        return len(self.header) + rows * channels * height * width

    @cached_property
    def checked(self) -> list[int]:
        """The rows that the checksum is of: the first, the last, and some evenly between them."""
        rows = self.shape[0]
        return sorted({i * (rows - 1) // max(1, CHECKED_ROWS - 1) for i in range(CHECKED_ROWS)})


def _key(contents: Sequence[str], preprocessing: Preprocessing) -> str:
    facts = [FORMAT, [_installed(package) for package in DECODERS], asdict(preprocessing), list(contents)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- reading -------------------------------------------------------------------------------------------------------


def _read(entry: _Entry) -> DecodedPictures | None:
    """The pictures on disk; None where they are not, or not whole.

    What is verified: the header, byte by byte, the length, and the checksum of CHECKED_ROWS rows. A byte that changes
    in another row goes unnoticed.
    """
    try:
        notes = json.loads(entry.notes.read_text(encoding="utf-8"))
        with entry.array.open("rb") as file:
            if file.read(len(entry.header)) != entry.header or os.fstat(file.fileno()).st_size != entry.size:
                return None
        pixels: Pixels = np.load(entry.array, mmap_mode="r", allow_pickle=False)
        if notes["crc32"] != _checksum(pixels[row] for row in entry.checked):
            return None
        found = _frozen(pixels, {int(row): str(reason) for row, reason in notes["unreadable"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    with contextlib.suppress(OSError):  # when it was last used; a folder that can't be written is good for reading
        os.utime(entry.array)
    return found


def _checksum(rows: Iterator[Pixels]) -> int:
    checksum = 0
    for row in rows:
        checksum = zlib.crc32(np.ascontiguousarray(row).data, checksum)
    return checksum


def _frozen(pixels: Pixels, unreadable: Mapping[int, str]) -> DecodedPictures:
    pixels.flags.writeable = False
    return DecodedPictures(pixels, unreadable)


# --- writing -------------------------------------------------------------------------------------------------------


class _CannotKeep(Exception):
    """The disk is full, the folder can't be written, or the like."""


@contextlib.contextmanager
def _keeping() -> Iterator[None]:
    """Raises as _CannotKeep what the operating system says about the cache; no error of `load` may come in here."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        raise _CannotKeep from error


@contextlib.contextmanager
def _alone(entry: _Entry) -> Iterator[None]:
    """Waits until no other process makes this entry. The system frees the lock of a process that dies."""
    lock = FileLock(entry.folder / f"{entry.key}.lock")
    with _keeping():
        entry.folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        _released(lock)


def _released(lock: FileLock) -> None:
    """Gives a lock back, and its file away: who waits for it sees that, or at worst does the work again."""
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def _written(entry: _Entry, pictures: Iterator[Pixels | Exception]) -> DecodedPictures:
    """The pictures, streamed to disk and mapped from there."""
    with contextlib.suppress(OSError):
        _tidy(entry.folder, entry.key)
        _make_room(entry)
    with _keeping():
        if shutil.disk_usage(entry.folder).free < entry.size:  # better known before than after the decoding
            raise _CannotKeep
    unreadable: dict[int, str] = {}
    checked = set(entry.checked)
    checksum = 0
    nothing = np.zeros(entry.shape[1:], dtype=np.uint8)
    with _draft(entry.array) as file:
        _write(file, entry.header)
        for row, picture in zip(range(entry.shape[0]), pictures, strict=True):
            if isinstance(picture, Exception):
                unreadable[row] = str(picture)
                picture = nothing
            pixels = np.ascontiguousarray(picture)
            if row in checked:
                checksum = zlib.crc32(pixels.data, checksum)
            _write(file, pixels.data.cast("B"))
    try:
        with _draft(entry.notes) as file:
            _write(file, json.dumps({"crc32": checksum, "shape": entry.shape, "unreadable": unreadable}).encode())
    except BaseException:
        with contextlib.suppress(OSError):
            entry.array.unlink(missing_ok=True)  # of no use alone, and large
        raise
    if (found := _read(entry)) is None:  # evicted by somebody else just now, or a disk that does not keep its word
        raise _CannotKeep
    return found


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[io.FileIO]:
    """A file that takes the place of `path` once it is whole and on the disk, or disappears."""
    with _keeping():
        descriptor, name = tempfile.mkstemp(prefix=f"{path.stem}.", suffix=".part", dir=path.parent)
    draft = Path(name)
    try:
        with io.FileIO(descriptor, "wb") as file:  # unbuffered, so that no write is left for closing
            yield file
            with _keeping():
                os.fsync(file.fileno())
        with _keeping():
            draft.replace(path)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _write(file: io.FileIO, content: bytes | memoryview) -> None:
    left = memoryview(content)
    with _keeping():
        while left:
            left = left[file.write(left) :]


def _in_memory(entry: _Entry, pictures: Iterator[Pixels | Exception]) -> DecodedPictures:
    pixels = np.zeros(entry.shape, dtype=np.uint8)
    unreadable: dict[int, str] = {}
    for row, picture in zip(range(len(pixels)), pictures, strict=True):
        if isinstance(picture, Exception):
            unreadable[row] = str(picture)
        else:
            pixels[row] = picture
    return _frozen(pixels, unreadable)


# --- what others left ----------------------------------------------------------------------------------------------


def _tidy(folder: Path, held: str) -> None:
    """Removes the drafts of processes that died: those under whose key nobody holds the lock, or this process does."""
    for draft in folder.glob("*.part"):
        key = draft.name.split(".")[0]
        with _idle(folder, key, held) as idle:
            if idle:
                draft.unlink(missing_ok=True)


def _make_room(entry: _Entry) -> None:
    """Deletes the entries not used for longest until the new one fits; one that is being made is let be."""
    sizes: dict[str, int] = {}
    used: dict[str, float] = {}
    for file in entry.folder.glob("*.*"):
        if file.suffix not in (".npy", ".json", ".part"):
            continue
        with contextlib.suppress(OSError):  # deleted meanwhile
            key = file.name.split(".")[0]
            sizes[key] = sizes.get(key, 0) + file.stat().st_size
            used[key] = max(used.get(key, 0), file.stat().st_mtime)
    sizes.pop(entry.key, None)  # what is there of it is about to be replaced
    total = sum(sizes.values()) + entry.size
    for key in sorted(sizes, key=lambda key: used[key]):
        if total <= LARGEST:
            return
        with _idle(entry.folder, key) as idle:
            if idle:
                for suffix in (".json", ".npy"):
                    (entry.folder / f"{key}{suffix}").unlink(missing_ok=True)
                total -= sizes[key]


@contextlib.contextmanager
def _idle(folder: Path, key: str, held: str = "") -> Iterator[bool]:
    """Whether nobody else makes the entry of this key, nor does inside the `with`; errors in there don't matter."""
    if key == held:
        with contextlib.suppress(OSError):
            yield True
        return
    lock = FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError):
        yield False
        return
    try:
        with contextlib.suppress(OSError):
            yield True
    finally:
        _released(lock)
