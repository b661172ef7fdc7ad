"""From folders to a list of labelled files: one sub-folder per class."""

import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored, StoredFile
from fewshot_cli.images.sources.leftovers import OURS, counted, is_ours, passed_over

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic"}
    | {".heif", ".jp2", ".ppm", ".pgm", ".pbm"}
)
UNKNOWN, UNKNOWN_FOLDER = "unknown", "_unknown"
"""The class of pictures that are of none of the others, and the folder of its images."""
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "support", "query"})

ARRANGE = "Make one sub-folder per class, named after the class, and put its images inside: {}"


@dataclass(frozen=True)
class Item:
    """One picture and the class that its folder, or its list, says."""

    stored: Stored
    label: str

    @property
    def path(self) -> Path:
        """Of its file; for one that is in no file of its own, a name for messages."""
        return Path(self.stored.name)


@dataclass(frozen=True)
class Folder:
    """Labelled images: sorted class names, items sorted by class and path, images outside of any class.

    `left_out` counts by name what lies among them and is passed over, see images/sources/leftovers.py.
    """

    root: Path
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    loose: tuple[Path, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    several: bool = False
    """Whether a list says of an image that it has several labels, which a + joins in the name of its class."""


def read_folder(root: Path, allow_empty: bool = False) -> Folder:
    """The labelled files below `root`, the same on every file system; their contents are not looked at.

    Every file counts that is neither hidden, nor left over by some program, nor one of ours: one that is no image is
    reported instead of overlooked. A folder of nothing but files of ours is no class. Names are
    brought to Unicode NFC; folders whose names become equal are one class. Links are followed, never in circles.
    Raises FewshotError when there is no folder, no class or a single one, or an empty class (unless `allow_empty`).
    """
    folders, files, left_out = entries(_existing_folder(root))
    left_out = [*left_out]
    ancestors = {identity(root), *_ancestors(root)}
    class_folders: dict[str, list[Path]] = {}
    for folder in folders:
        # A link that leads back up is no class.
        if identity(folder) not in ancestors and not _holds_only_ours(folder):
            class_folders.setdefault(nfc(folder.name), []).append(folder)
    loose = tuple(sorted((file for file in files if file.suffix.lower() in IMAGE_SUFFIXES), key=order))
    _check_classes(root, class_folders, loose)

    items: list[Item] = []
    for label in sorted(class_folders):
        visited = set(ancestors)
        paths = [path for folder in class_folders[label] for path in _files_below(folder, visited, left_out)]
        if not paths and not allow_empty:
            raise FewshotError(
                f"The class {label!r} is empty: no file in {class_folders[label][0]}.",
                "Put images into it, or remove the folder.",
            )
        items += [Item(StoredFile(path), label) for path in sorted(paths, key=order)]
    return Folder(root, tuple(sorted(class_folders)), tuple(items), loose, counted(left_out))


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files given, missing ones too, and those inside the folders given; in the order given, each once."""
    found: dict[str, Path] = {}
    for path in paths:
        inside = sorted(_files_below(path, set(_ancestors(path)), []), key=order) if path.is_dir() else [path]
        for file in inside:
            found.setdefault(os.path.abspath(file), file)  # noqa: PTH100  Path.absolute keeps "..", resolve follows links
    return list(found.values())


# --- walking -------------------------------------------------------------------------------------------------------


def _files_below(folder: Path, visited: set[str], left_out: list[str]) -> Iterator[Path]:
    """Every file in `folder` and below, unordered; folders in `visited` are passed over, and those entered join it.

    What names left out were left out as joins `left_out`.
    """
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        if identity(current) in visited:
            continue
        visited.add(identity(current))
        inside = entries(current)
        left_out += inside.left_out
        waiting += reversed(inside.folders)
        yield from inside.files


def _holds_only_ours(folder: Path) -> bool:
    """Whether fewshot wrote something into the folder, or below, and nothing else is there but leftovers."""
    folders, files, left_out = entries(folder)
    if files or any(inside.is_symlink() or not _holds_only_ours(inside) for inside in folders):
        return False
    return bool(folders) or OURS in left_out


class FolderEntries(NamedTuple):
    """What is in a folder: folders and files, sorted, and what the others are left out as."""

    folders: list[Path]
    files: list[Path]
    left_out: list[str]


def entries(folder: Path) -> FolderEntries:
    """What is in `folder`, links followed; a broken link is a file. Raises FewshotError where it can't be read."""
    try:
        everything = sorted(folder.iterdir(), key=order)
    except OSError as error:
        raise FewshotError(f"The folder {folder} can't be read: {error.strerror}.", "Check its permissions.") from error
    found = FolderEntries([], [], [])
    for path in everything:
        if kind := passed_over(path.name):
            found.left_out.append(kind)
        elif path.is_dir():
            found.folders.append(path)
        elif path.is_file() or (path.is_symlink() and not path.exists()):
            ours = path.suffix.lower() not in IMAGE_SUFFIXES and is_ours(path)
            found.left_out.append(OURS) if ours else found.files.append(path)
    return found


def name_is_text(name: str) -> bool:
    """Whether a name is text that a file can carry: not bytes that are no UTF-8, as old archives leave."""
    return name == name.encode(errors="replace").decode()


def nfc(name: str) -> str:
    """The name with letters and accents composed (Unicode's NFC), as file systems may spell it otherwise."""
    return unicodedata.normalize("NFC", name)


def class_name(name: str) -> str:
    """The class that a folder or a label of this name stands for: in NFC, and `unknown` for `_unknown`."""
    return UNKNOWN if nfc(name) == UNKNOWN_FOLDER else nfc(name)


def order(path: Path) -> tuple[str, str]:
    """Sorts by characters, not by how a file system spells them; the spelling decides between equals."""
    return nfc(path.as_posix()), path.as_posix()


def identity(folder: Path) -> str:
    """What is the same for a folder however it is reached: its path without links."""
    return os.path.realpath(folder)


def _ancestors(folder: Path) -> list[str]:
    return [str(parent) for parent in Path(identity(folder)).parents]


# --- what can be wrong ---------------------------------------------------------------------------------------------


def _existing_folder(root: Path) -> Path:
    if not root.exists():
        raise FewshotError(f"There is no folder {root}.", "Check the path; relative paths start at the current folder.")
    if not root.is_dir():
        raise FewshotError(f"{root} is a file, not a folder.", ARRANGE.format("photos/cat/1.jpg, photos/dog/1.jpg"))
    return root


def _check_classes(root: Path, class_folders: dict[str, list[Path]], loose: tuple[Path, ...]) -> None:
    """Raises FewshotError unless there are two classes or more and they are classes, not splits."""
    if not class_folders and loose:
        raise FewshotError(
            f"{root} has no sub-folders: its images, such as {loose[0].name}, have no labels.",
            ARRANGE.format(root / "<class>" / loose[0].name),
        )
    if not class_folders:
        raise FewshotError(f"{root} has no sub-folders.", ARRANGE.format(root / "<class>" / "1.jpg"))
    nested = [folder for folders in class_folders.values() for folder in folders if entries(folder)[0]]
    if nested and all(label.casefold() in SPLITS for label in class_folders):
        raise FewshotError(
            f"{root} holds parts of a data set ({', '.join(sorted(class_folders))}), not classes.",
            f"Point at one of them: {nested[0]}",
        )
    if len(class_folders) < 2:
        (label,) = class_folders
        raise FewshotError(
            f"{root} has a single class, {label!r}; telling apart takes two.",
            f"If the folders in it are the classes, point at {nested[0]}."
            if nested
            else "Add a second sub-folder, for instance 'other' with pictures of anything else.",
        )
