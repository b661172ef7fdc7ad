"""What lies among pictures and is none: what systems, drives, cameras and programs leave behind, and our own files.

One list for folders, zips and lists of files alike. Whatever begins with a dot is left out of folders and zips, too.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

LEFTOVERS = {
    "macOS": (
        *(".DS_Store", "._*", "__MACOSX", "Icon\r", "Network Trash Folder", "Temporary Items"),
        *("*.photoslibrary", ".AppleDouble", ".Trashes", ".Spotlight-V100", ".fseventsd", ".TemporaryItems"),
    ),
    "Windows": (
        *("Thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "~$*", "$RECYCLE.BIN"),
        *("System Volume Information",),
    ),
    "Linux": ("lost+found", ".Trash-*", ".thumbnails", ".directory", ".xvpics", "*~"),
    "Android": ("LOST.DIR", ".trashed-*", ".pending-*", ".thumbdata*"),
    "network drives": (
        *("@eaDir", "@tmp", "@Recycle", "@Recently-Snapshot", "@__thumb", ".@__thumb", ".@*", "#recycle"),
        *("#snapshot", "~snapshot", ".snapshot", "@sharebin", "*@SynoResource", "*@SynoEAStream"),
    ),
    "synchronisation": ("_gsdata_", ".dropbox.cache", ".stversions", ".sync"),
    "cameras": ("*.thm", "*.lrv", "*.ctg", "THMBNL", "CANONMSC", "NKSC_PARAM", "iPod Photo Cache"),
    "photo programs": (
        *(".picasaoriginals", "Picasa.ini", ".picasa.ini", ".dtrash", "digikam4.db", "*.lrdata", "*.lrcat"),
        *("thumbnails-digikam.db", "[Originals]", "CaptureOne", "ZbThumbnail.info", "pspbrwse.jbf"),
        *(".BridgeCache*", "*.lrprev", "*.cosessiondb", "*.xmp", "*.aae", "*.pp3", "*.dop", "*.cos"),
    ),
    "unfinished downloads": ("*.part", "*.crdownload", "*.tmp"),
    "editors": (".ipynb_checkpoints", "__pycache__", "node_modules", ".git", ".svn", "*.swp"),
}
"""Names that are passed over, whatever their case, by who leaves them; `*` is any number of letters.

Words that a class might well be called, such as Originals or recycled, are not among them.
"""
HIDDEN = ".*"
"""What hidden files and folders of no name listed are counted as."""
OURS = "outputs and records"
"""What files that fewshot writes beside pictures are counted as."""

OUR_SUFFIXES = (
    *(".fewshot", ".bank", ".run.json", ".journal", ".partial", ".checkpoint", ".log.jsonl", ".lock"),
    *(".csv", ".tsv", ".jsonl", ".json", ".html", ".md", ".yaml", ".onnx", ".safetensors", ".pt2"),
)
OUR_FORMAT = re.compile(rb'"format":\s*"fewshot-')
"""What the metadata of every file that we sign hold, as formats/container.py writes it."""

_NAMES = [name for names in LEFTOVERS.values() for name in names]
_LEFT_OVER = re.compile(
    "|".join("({})".format(re.escape(name.casefold()).replace(r"\*", ".*")) for name in _NAMES), re.DOTALL
)
_OURS = re.compile(r".*({})(-\d+)?".format("|".join(map(re.escape, OUR_SUFFIXES))), re.DOTALL | re.IGNORECASE)


@lru_cache(maxsize=10_000)
def left_over(name: str) -> str | None:
    """Which of LEFTOVERS a file's or folder's own name is; None where it is none."""
    found = _LEFT_OVER.fullmatch(name.casefold())
    return _NAMES[found.lastindex - 1] if found and found.lastindex else None


def passed_over(name: str) -> str | None:
    """What a name in a folder or a zip is left out as; None where it stays."""
    return left_over(name) or (HIDDEN if name.startswith(".") else None)


def is_ours(path: Path) -> bool:
    """Whether a file that has no picture's name is one that fewshot writes: by its name, or else by how it begins."""
    if is_our_name(path.name):
        return True
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return start[8:9] == b"{" and OUR_FORMAT.search(start) is not None


def is_our_name(name: str) -> bool:
    """Whether a file of this name is one that fewshot writes beside pictures: an output, its record, a journal."""
    return _OURS.fullmatch(name) is not None


def counted(kinds: Iterable[str]) -> dict[str, int]:
    """How many were left out as what, the most first."""
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
