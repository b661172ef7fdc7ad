"""Copies of files beside others, which are never written over."""

import os
import shutil
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

from fewshot_cli.errors import FewshotError

FORBIDDEN = dict.fromkeys(map(ord, '<>:"/\\|?*'), "_") | dict.fromkeys(range(32), "_")
"""Characters that no name of a folder may have on one system or another."""
RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(1, 10))}
SAME_AT_ONCE = 1 << 20


class Copied(NamedTuple):
    """Where a copy is, and whether it was there already."""

    path: Path
    was_there: bool


def folder_name(name: str) -> str:
    """A name for a folder of what is called `name`, which every system takes."""
    plain = name.translate(FORBIDDEN).rstrip(". ")
    if not plain or plain.split(".")[0].casefold() in RESERVED or plain.startswith("."):
        plain = f"_{plain.lstrip('.')}"
    return plain.encode()[:200].decode(errors="ignore")


def folder_names(names: Iterable[str]) -> dict[str, str]:
    """A name for the folder of each, no two of which are alike, also where a system ignores case or accents' spelling.

    Names that stay as they are go before those that don't; what is alike then gets a number.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: (folder_name(name) != name, name)):
        plain = folder_name(name)
        numbered = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
        found[name] = next(each for each in numbered if _alike(each) not in taken)
        taken.add(_alike(found[name]))
    return found


def _alike(name: str) -> str:
    """What is the same of names that some file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def copied_into(folder: Path, file: Path) -> Copied:
    """A copy of the file in the folder, under its name, or that with a number where another file has it.

    Nothing is moved or written over; a file of the same content and name that lies there is the copy. Raises
    FewshotError where the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            target = folder / (file.name if number == 1 else f"{file.stem}-{number}{file.suffix}")
            if os.path.lexists(target):
                if _same(target, file):
                    return Copied(target, True)
                continue
            with suppress(FileExistsError):
                _copy(file, target)
                return Copied(target, False)
    except OSError as error:
        raise FewshotError(
            f"{file} can't be copied into {folder}: {error.strerror or error}.", "Choose another folder, or make room."
        ) from None
    raise AssertionError("numbers never end")


def _copy(file: Path, target: Path) -> None:
    """Copies to a name that nothing has; half a copy is taken away."""
    with file.open("rb") as source, target.open("xb") as copy:
        try:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        except BaseException:
            copy.close()
            target.unlink(missing_ok=True)
            raise
    with suppress(OSError):
        shutil.copystat(file, target)


def _same(one: Path, other: Path) -> bool:
    """Whether two files have the same content."""
    if not one.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while block := first.read(SAME_AT_ONCE):
            if block != second.read(SAME_AT_ONCE):
                return False
    return True
