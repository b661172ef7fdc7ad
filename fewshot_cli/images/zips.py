"""Data sets in zips of class folders, which are never unpacked to disk."""

import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import TypeAlias

from PIL import Image

from fewshot_cli.errors import FewshotError
from fewshot_cli.images import decode
from fewshot_cli.images.decode import ImageError
from fewshot_cli.images.folders import IMAGE_SUFFIXES, SPLITS, nfc
from fewshot_cli.images.found import Found
from fewshot_cli.images.leftovers import is_leftover
from fewshot_cli.images.stored import Content, Stored

Members: TypeAlias = dict[tuple[str, ...], list[zipfile.ZipInfo]]
"""What lies in a zip by the parts of its folder's path."""

LARGEST_MEMBER = 500_000_000  # bytes that one picture in a zip may unfold to


def zipped(path: Path, name: str) -> Found | None:
    """The data set in a zip file; None where no folder in it holds an image.

    A folder with images is a class, and what lies in folders below belongs to it, as in folders that are not zipped.
    Images beside all classes, in the folder that holds them, have no label. Folders between the top and a class are
    its superclass. Raises FewshotError where the zip is damaged, encrypted or holds train/ and test/.
    """
    archive = Archive(path)
    members: Members = {}
    for member in archive.members():
        place = PurePosixPath(nfc(member.filename.replace("\\", "/")))  # as some tools on Windows write it
        if place.suffix.lower() in IMAGE_SUFFIXES and not any(map(is_leftover, place.parts)):
            if member.flag_bits & 1:
                raise FewshotError(f"{path} is encrypted: {place}.", "Unzip it, and zip it again without a password.")
            members.setdefault(place.parts[:-1], []).append(member)
    classes = _class_folders(members)
    if not classes:
        return None
    common = _common_beginning([parts[:-1] for parts in classes])
    _check_no_splits(path, [parts[common:] for parts in classes])
    pictures: dict[str, list[Stored]] = {}
    superclasses: dict[str, list[str]] = {}
    for parts, inside in classes.items():
        label = "/".join(parts[common:])
        pictures[label] = [ZipMember(archive, one) for one in sorted(inside, key=lambda one: nfc(one.filename))]
        superclasses.setdefault("/".join(parts[common:-1]), []).append(label)
    return Found(
        name, path, tuple(pictures), pictures.__getitem__, superclasses={} if "" in superclasses else superclasses
    )


def _class_folders(
    members: dict[tuple[str, ...], list[zipfile.ZipInfo]],
) -> dict[tuple[str, ...], list[zipfile.ZipInfo]]:
    """The members of each class by its folder, which is the highest with images in it, but not the one above all."""
    folders = {parts for parts in members if parts}
    above_all = {top for top in folders if all(parts[: len(top)] == top for parts in folders)}
    for top in above_all:
        if len({parts[len(top)] for parts in folders if len(parts) > len(top)}) > 1:
            folders.discard(top)  # its own images lie outside of any class
    classes: Members = {}
    for parts in sorted(folders):
        highest = next(parts[:depth] for depth in range(1, len(parts) + 1) if parts[:depth] in folders)
        classes.setdefault(highest, []).extend(members[parts])
    return classes


def _check_no_splits(path: Path, classes: Sequence[tuple[str, ...]]) -> None:
    """Raises FewshotError where the classes lie in folders called train, test and the like."""
    first = sorted({parts[0] for parts in classes})
    if all(len(parts) > 1 for parts in classes) and all(name.casefold() in SPLITS for name in first):
        raise FewshotError(
            f"{path} holds parts of a data set ({', '.join(first)}), not classes.",
            f"Zip one of them by itself, or unzip it and point at its folder {first[0]}.",
        )


class Archive:
    """A zip file that threads read from in turns; it stays open, since its table of contents may be long."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, LookupError, NotImplementedError, struct.error) as error:
            raise FewshotError(
                f"{path} is not a zip file that can be read: {error}.", "Make it, or download it, again."
            ) from None

    def members(self) -> list[zipfile.ZipInfo]:
        """What is in it; of members with the same name the last, as when unzipping."""
        return list({member.filename: member for member in self._zip.infolist() if not member.is_dir()}.values())

    def read(self, member: zipfile.ZipInfo) -> bytes:
        """The bytes of a member, never more than LARGEST_MEMBER; raises ImageError."""
        if member.file_size > LARGEST_MEMBER:
            raise ImageError(
                "too-large",
                f"too large: it unzips to {member.file_size / 1e6:.0f} MB",
                f"Save a smaller copy; the limit is {LARGEST_MEMBER // 1_000_000} MB.",
            )
        # The two that zip tools write, and the two that zipfile unfolds no further than it is asked to.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImageError(
                "unreadable", "compressed in a way that is not read from zips", "Zip it again with the usual method."
            )
        content = bytearray()
        try:
            with self._lock, self._zip.open(member) as file:
                while part := file.read(1 << 20):
                    content += part
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, struct.error) as error:
            reason = "damaged inside the zip, or the zip ends too early"
            raise ImageError("truncated", reason, "Make the zip, or download it, again.") from error
        return bytes(content)


@dataclass(frozen=True, slots=True)
class ZipMember(Stored):
    """A picture in a zip file, which is never unpacked to disk."""

    archive: Archive
    member: zipfile.ZipInfo

    @property
    def name(self) -> str:
        """The zip file and the path in it."""
        return f"{self.archive.path}: {self.member.filename}"

    def read(self) -> Content:
        """The unzipped bytes, with the hash of the file, if it were one."""
        return Content.of_bytes(self.archive.read(self.member))

    def opened(self) -> AbstractContextManager[Image.Image]:
        """The image in the zip."""
        return decode.opened(self.archive.read(self.member))


def _common_beginning(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all the paths begin with in common."""
    return next((i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), min(map(len, paths)))
