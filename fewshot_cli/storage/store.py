"""Bytes kept between runs, by key and content: one SQLite file, which several processes may use at once."""

import contextlib
import logging
import math
import os
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

FORMAT = 2  # of the file; another one is begun anew
WAIT = 60.0  # seconds for other processes to finish what they write
ROOM = 1 << 30  # bytes of the disk that are left to others
OVERHEAD = 512  # bytes of a value's names and places, at most
STALE = 3600  # seconds after which it is written down again that a value was used
AT_ONCE = 500  # values asked for in one statement
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What sqlite3 raises, these and no subclass, for a file that is no database any more."""

SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, content TEXT NOT NULL, used INTEGER NOT NULL, UNIQUE (key, content)
);
CREATE INDEX by_use ON entries (used, id);
CREATE TABLE blobs (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
"""

log = logging.getLogger("fewshot")


@dataclass(frozen=True)
class StoreSize:
    """How many values a store has, and the bytes of its file."""

    values: int
    bytes: int


class Store:
    """Values by key and content, `largest` bytes at most: those not used for longest go first.

    A store that can't be opened or written is an empty one: it is never a reason to fail. A damaged one is begun anew.
    Threads may share one.
    """

    def __init__(self, path: Path, largest: int) -> None:
        self.path, self.largest = path, largest
        self._connection: sqlite3.Connection | None = None
        self._lock = RLock()
        self._used: set[int] = set()
        self._complained = False

    def load(self, key: str, contents: Sequence[str]) -> dict[str, memoryview]:
        """The values known of these contents under `key`, by content; what is damaged is not known."""
        question = "SELECT id, content, used, value FROM entries JOIN blobs USING (id)"
        found = {}
        for row, content, used, value in self._asked(question, key, contents):
            if (whole := _checked(key, content, value)) is not None:
                found[content] = whole
                if used < time.time() - STALE:
                    self._used.add(row)
        if len(self._used) >= AT_ONCE:
            self.flush()
        return found

    def holds(self, key: str, contents: Sequence[str]) -> set[str]:
        """Which of these contents have a value under `key`."""
        return {content for (content,) in self._asked("SELECT content FROM entries", key, contents)}

    def save(self, key: str, values: Mapping[str, bytes]) -> bool:
        """Keeps the values of these contents; whether that was possible. What was kept and is used least makes room."""
        need = sum(len(value) + OVERHEAD for value in values.values())
        if not values:
            return True
        self.flush()  # before something has to go
        try:
            with self._writing() as database:
                _evict(database, self.largest - need)
                if need > self.largest - _bytes_held(database):
                    raise _NoRoom(f"more than the limit of {self.largest} bytes")
                grown = need - _pragma(database, "freelist_count") * _pragma(database, "page_size")
                if grown > 0 and shutil.disk_usage(self.path.parent).free - grown < ROOM:
                    raise _NoRoom("the disk is nearly full")
                for content, value in values.items():
                    _insert(database, key, content, value)
        except (*DAMAGE, sqlite3.Error, OSError, _NoRoom) as error:
            self._failed(error)
            self._complain(len(values), error)
            return False
        return True

    def flush(self) -> None:
        """Writes down what was used since the last time, so that it is not the first to go."""
        with self._lock:
            used, self._used = self._used, set()
        if used:
            with contextlib.suppress(*DAMAGE, sqlite3.Error, OSError), self._writing() as database:
                rows = [(int(time.time()), row) for row in used]
                database.executemany("UPDATE entries SET used = ? WHERE id = ?", rows)

    def held(self) -> StoreSize:
        """How much is kept."""
        if not self.path.is_file():
            return StoreSize(0, 0)
        try:
            with self._lock:
                (count,) = self._open().execute("SELECT COUNT(*) FROM entries").fetchone()
        except (*DAMAGE, sqlite3.Error, OSError):
            count = 0
        return StoreSize(count, self.path.stat().st_size)

    def forget(self, unused_since: float) -> int:
        """Removes what was not used since that time, in seconds since 1970, and gives the bytes of it back to the disk.

        How many values. Raises OSError and sqlite3.Error where that fails.
        """
        with self._writing() as database:
            (count,) = database.execute("SELECT COUNT(*) FROM entries WHERE used < ?", [unused_since]).fetchone()
            database.execute("DELETE FROM blobs WHERE id IN (SELECT id FROM entries WHERE used < ?)", [unused_since])
            database.execute("DELETE FROM entries WHERE used < ?", [unused_since])
        with self._lock:
            self._open().execute("VACUUM")
        return int(count)

    def close(self) -> None:
        """Lets go of the file; it is opened again when needed."""
        self.flush()
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _asked(self, question: str, key: str, contents: Sequence[str]) -> list[tuple]:  # type: ignore[type-arg]
        found: list[tuple] = []  # type: ignore[type-arg]
        try:
            with self._lock:
                database = self._open(to_write=False)
                for start in range(0, len(contents), AT_ONCE):
                    some = contents[start : start + AT_ONCE]
                    marks = ",".join("?" * len(some))
                    found += database.execute(f"{question} WHERE key = ? AND content IN ({marks})", [key, *some])
        except (*DAMAGE, sqlite3.Error, OSError) as error:
            self._failed(error)
            return []
        return found

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which is committed at the end."""
        with self._lock:
            database = self._open()
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise

    def _open(self, to_write: bool = True) -> sqlite3.Connection:
        if self._connection is None:
            if to_write:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(PermissionError):  # may be read all the same
                    # SQLite would let nobody but the owner write, whatever the umask
                    os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o666))
            elif not self.path.is_file():
                raise FileNotFoundError(self.path)
            self._connection = _connected(self.path)
        return self._connection

    def _failed(self, error: Exception) -> None:
        """Removes a file that is damaged; other errors, as of a lock or a full disk, pass."""
        with self._lock:
            if type(error) in DAMAGE:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                with contextlib.suppress(OSError):
                    self.path.unlink(missing_ok=True)

    def _complain(self, count: int, error: Exception) -> None:
        """Says once that something could not be kept."""
        if not self._complained:
            self._complained = True
            log.warning("%s values could not be kept in %s (%s); they will be computed again.", count, self.path, error)


class _NoRoom(Exception):
    """The limit, or the disk, leaves no room."""


def _connected(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA synchronous = OFF")  # every value has a checksum, and all can be computed again
        if _pragma(database, "user_version") != FORMAT:
            _begin(database)
    except BaseException:
        database.close()
        raise
    return database


def _begin(database: sqlite3.Connection) -> None:
    """Makes the tables in an empty file; one with other tables is taken for a damaged one."""
    database.execute("PRAGMA page_size = 16384")
    database.execute("BEGIN IMMEDIATE")
    if _pragma(database, "user_version") != FORMAT:  # else another process was faster
        if database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() != (0,):
            raise sqlite3.DatabaseError("of another version")
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {FORMAT}")
    database.execute("COMMIT")


def _insert(database: sqlite3.Connection, key: str, content: str, value: bytes) -> None:
    now = int(time.time())
    (row,) = database.execute(
        "INSERT INTO entries (key, content, used) VALUES (?, ?, ?) "
        "ON CONFLICT (key, content) DO UPDATE SET used = excluded.used RETURNING id",
        [key, content, now],
    ).fetchone()
    packed = value + _checksum(key, content, value)
    database.execute("INSERT OR REPLACE INTO blobs (id, value) VALUES (?, ?)", [row, packed])


def _evict(database: sqlite3.Connection, largest: int) -> None:
    """Removes those not used for longest until at most `largest` bytes are held, or nothing is; some more at once."""
    while (held := _bytes_held(database)) > largest:
        (count,) = database.execute("SELECT COUNT(*) FROM entries").fetchone()
        if not count:
            return
        share = 1 - 0.95 * max(0, largest) / held
        oldest = database.execute(
            "SELECT id FROM entries ORDER BY used, id LIMIT ?", [max(1, math.ceil(count * share))]
        ).fetchall()
        database.executemany("DELETE FROM blobs WHERE id = ?", oldest)
        database.executemany("DELETE FROM entries WHERE id = ?", oldest)


def _bytes_held(database: sqlite3.Connection) -> int:
    """The bytes of the pages in use, which takes no look at what is in them; an empty store holds none."""
    pages = _pragma(database, "page_count") - _pragma(database, "freelist_count")
    return max(0, pages - 6) * _pragma(database, "page_size")  # the tables themselves take six


def _pragma(database: sqlite3.Connection, name: str) -> int:
    return int(database.execute(f"PRAGMA {name}").fetchone()[0])


def _checksum(key: str, content: str, value: bytes | memoryview) -> bytes:
    """SQLite has none, and a changed bit would be a wrong answer."""
    return zlib.crc32(value, zlib.crc32(f"{key} {content}".encode())).to_bytes(4, "little")


def _checked(key: str, content: str, packed: object) -> memoryview | None:
    """The value that was packed with its checksum; None where it is damaged."""
    if not isinstance(packed, bytes):
        return None
    value = memoryview(packed)[:-4]
    return value if packed[-4:] == _checksum(key, content, value) else None
