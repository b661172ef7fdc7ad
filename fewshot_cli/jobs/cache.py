"""What is remembered on this machine between runs: shown, and cleared."""

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.feature_cache import FeatureCache, cache_folder

Kind = Literal["features", "pictures", "weights", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DAY = 86400
_SQLITE = ("", "-journal", "-wal", "-shm")  # what SQLite may lay beside a file


def cached() -> dict[str, Any]:
    """How much is remembered of each kind: bytes, and how many features and pictures."""
    return {"command": "cache", "folder": str(cache_folder()), "kinds": _held(KINDS)}


def clear(kinds: Sequence[str], unused_for: float | None) -> dict[str, Any]:
    """Removes what is remembered of these kinds, of all unless some are named; what is gone, in bytes.

    With `unused_for` only features and pictures that were not used for so many days. Raises FewshotError for an
    unknown kind, for days with a kind that does not know them, and where something can't be removed.
    """
    wanted = _wanted(kinds, unused_for)
    before = _held(wanted)
    stores = _stores()
    for kind in wanted:
        try:
            if unused_for is None:
                for path in _paths(kind):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
            elif stores[kind].path.is_file():
                stores[kind].forget(time.time() - unused_for * DAY)
        except (OSError, sqlite3.Error) as error:
            raise FewshotError(
                f"The {kind} in {cache_folder()} can't be cleared: {error}.",
                "Wait until no other fewshot is at work, and see whether you may write there.",
            ) from None
        finally:
            if kind in stores:
                stores[kind].close()
    after = _held(wanted)
    freed = {kind: before[kind]["bytes"] - after[kind]["bytes"] for kind in wanted}
    return {"command": "cache clear", "folder": str(cache_folder()), "freed": freed}


def _wanted(kinds: Sequence[str], unused_for: float | None) -> list[Kind]:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise FewshotError(f"Nothing called {unknown[0]!r} is remembered.", f"Name some of {', '.join(KINDS)}.")
    if unused_for is not None and not 0 <= unused_for <= 1e6:
        raise FewshotError(f"--unused-for {unused_for} is no number of days.", "Give 30, for example.")
    timed = ("features", "pictures")
    if unused_for is not None and (other := [kind for kind in kinds if kind not in timed]):
        raise FewshotError(
            f"When {other[0]} were used is not known, so --unused-for says nothing about them.",
            f"Leave it out, or name {' or '.join(timed)}.",
        )
    return [kind for kind in KINDS if (kind in kinds or not kinds) and (unused_for is None or kind in timed)]


def _stores() -> dict[str, Any]:
    cache = FeatureCache()
    return {"features": cache.store, "pictures": cache.pictures.store}


def _held(kinds: Sequence[Kind]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    stores = _stores()
    for kind in kinds:
        found[kind] = {"bytes": sum(map(_bytes, _paths(kind)))}
        if kind in stores:
            found[kind]["values"] = stores[kind].held().values
            stores[kind].close()
    return found


def _paths(kind: Kind) -> list[Path]:
    """The files and folders of this kind; "other" are names of backbones and what other versions left.

    Nothing is among them that isn't ours, as FEWSHOT_CACHE may name a folder with other things in it.
    """
    folder = cache_folder()
    match kind:
        case "features" | "pictures":
            paths = [folder / f"{kind}.sqlite{suffix}" for suffix in _SQLITE]
        case "weights":
            paths = [folder / "weights"]
        case "other":
            paths = [folder / "backbones", folder / "pixels", folder / "locks", *folder.glob("*.lock")]
    return [path for path in paths if path.exists()]


def _bytes(path: Path) -> int:
    total = 0
    for file in path.rglob("*") if path.is_dir() else [path]:
        with contextlib.suppress(OSError):  # gone meanwhile
            total += file.stat().st_size if file.is_file() else 0
    return total
