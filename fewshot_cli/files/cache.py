"""What is kept between runs: converted weights, and the features of images already seen. Safe to delete at any time."""

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import platformdirs

LARGEST = 2 << 30  # bytes of features kept; the oldest go first
DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What sqlite3 raises, these and no subclass, for a file that is no database any more."""


def cache_folder() -> Path:
    """The folder named by FEWSHOT_CACHE, or the user's cache folder."""
    return Path(os.environ.get("FEWSHOT_CACHE") or platformdirs.user_cache_dir("fewshot", appauthor=False))


class FeatureCache:
    """Features by content of the image file and model: one SQLite file, which several processes may use at once.

    A cache that can't be opened or written is an empty one: it is never a reason to fail. A damaged one is begun anew.
    """

    def __init__(self, path: Path | None = None, largest: int = LARGEST) -> None:
        self.path = path or cache_folder() / "features.sqlite"
        self.largest = largest

    def load(self, model: str, contents: Sequence[str]) -> dict[str, np.ndarray]:
        """The features `(dim,)` float32 known of these contents (hashes of image files) under `model`, by content."""
        found: dict[str, np.ndarray] = {}
        try:
            with self._open() as database:
                for start in range(0, len(contents), 500):
                    some = contents[start : start + 500]
                    marks = ",".join("?" * len(some))
                    rows = database.execute(
                        f"SELECT content, features FROM features WHERE model = ? AND content IN ({marks})",
                        [model, *some],
                    )
                    known = ((content, _unpacked(packed)) for content, packed in rows)
                    found |= {content: features for content, features in known if features is not None}
        except (*DAMAGE, sqlite3.Error, OSError) as error:
            self._begin_anew(error)
            return {}
        return found

    def save(self, model: str, features: Mapping[str, np.ndarray]) -> None:
        """Keeps the features of these contents; where the cache grows too large, the ones added first go."""
        rows = [(model, content, _packed(values)) for content, values in features.items()]
        try:
            with self._open() as database:
                database.executemany(
                    "INSERT OR REPLACE INTO features (model, content, features) VALUES (?, ?, ?)", rows
                )
                (held,) = database.execute("SELECT COALESCE(SUM(LENGTH(features)), 0) FROM features").fetchone()
                if held > self.largest:
                    database.execute(
                        "DELETE FROM features WHERE rowid IN (SELECT rowid FROM features ORDER BY rowid LIMIT "
                        "(SELECT COUNT(*) / 2 FROM features))"
                    )
        except (*DAMAGE, sqlite3.Error, OSError) as error:
            self._begin_anew(error)

    def _open(self) -> "_Database":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return _Database(self.path)

    def _begin_anew(self, error: Exception) -> None:
        """Removes a file that is damaged; other errors, as of a lock or a full disk, pass."""
        if type(error) in DAMAGE:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)


def _packed(features: np.ndarray) -> bytes:
    """The values as float32 and their checksum: SQLite has none, and a changed bit would be a wrong answer."""
    values = features.astype("<f4").tobytes()
    return values + zlib.crc32(values).to_bytes(4, "little")


def _unpacked(packed: object) -> np.ndarray | None:
    """The values that `_packed` packed; None where they are damaged."""
    if not isinstance(packed, bytes) or packed[-4:] != zlib.crc32(packed[:-4]).to_bytes(4, "little"):
        return None
    return np.frombuffer(packed[:-4], dtype="<f4")


class _Database:
    """A connection that commits and closes at the end of a `with`."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, timeout=10)

    def __enter__(self) -> sqlite3.Connection:
        try:
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS features "
                "(model TEXT, content TEXT, features BLOB, PRIMARY KEY (model, content))"
            )
        except Exception:
            self.connection.close()
            raise
        return self.connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.connection.commit()
        finally:
            self.connection.close()


class NoCache(FeatureCache):
    """Remembers nothing."""

    def __init__(self) -> None: ...

    def load(self, model: str, contents: Sequence[str]) -> dict[str, np.ndarray]:
        return {}

    def save(self, model: str, features: Mapping[str, np.ndarray]) -> None: ...
