"""Data sets in zips of class folders, which are never unpacked to disk."""

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.image_ref import Content, Stored
from fewshot_cli.images.sources.class_folders import IMAGE_SUFFIXES, nfc
from fewshot_cli.images.sources.description import FoundDataset
from fewshot_cli.images.sources.discovery import FolderTree, are_parts, data_sets_in, reading, role
from fewshot_cli.images.sources.leftovers import OURS, counted, is_our_name, passed_over

LARGEST_MEMBER = 500_000_000  # bytes that one picture in a zip may unfold to


def zipped(path: Path, name: str) -> FoundDataset | None:
    """The data set in a zip file, read as the folder that was zipped; None where no folder in it holds an image.

    Where that is several data sets, they are superclasses of one, whose classes are called "set/class".
    """
    archive = Archive(path)
    top = _unzipped(archive)
    tree = _tree(top, path)
    while (inner := _wrapped(tree)) is not None:
        tree, top = inner, top.folders[inner.path.name]
    return None if reading(tree) == "nothing" else _found(archive, name, top, tree)


def _wrapped(tree: FolderTree) -> FolderTree | None:
    """The folder that holds all classes or data sets of a zip, where its top folder holds nothing but this one."""
    folders = [folder for folder in tree.folders if role(folder) != "nothing"]
    alone = len(folders) == 1 and reading(folders[0]) in ("classes", "data sets", "unclear")
    return folders[0] if alone and not are_parts(tree, folders) else None


def _found(archive: "Archive", name: str, top: "_Inside", tree: FolderTree) -> FoundDataset:
    left_out = counted(top.all_left_out())
    loose = tuple(tree.path / file for file in sorted(top.files) if _is_image(file))
    if reading(tree) in ("classes", "one class"):
        pictures = {
            label: _pictures(archive, label, inside)
            for label, inside in top.folders.items()
            if any(inside.all_files()) or OURS not in inside.all_left_out()
        }
        return FoundDataset(name, archive.path, tuple(pictures), pictures.__getitem__, loose=loose, left_out=left_out)
    sets = data_sets_in(tree)
    if are_parts(tree, sets):
        parts = {one.path.name: partial(_found, archive, name, top.folders[one.path.name], one) for one in sets}
        return FoundDataset(name, archive.path, (), lambda label: (), parts=parts, left_out=left_out)
    of_sets: dict[str, Sequence[Stored]] = {}
    superclasses: dict[str, list[str]] = {}
    for one in sets:
        found = _found(archive, name, top.folders[one.path.name], one)
        if found.parts:
            raise FewshotError(
                f"{one.path} holds parts of a data set ({', '.join(found.parts)}), not classes.",
                "Zip each data set by itself.",
            )
        for label in found.classes:
            of_sets[f"{one.path.name}/{label}"] = found.pictures(label)
        for group, labels in (found.superclasses or {"": found.classes}).items():
            superclasses[f"{one.path.name}/{group}".rstrip("/")] = [f"{one.path.name}/{label}" for label in labels]
    return FoundDataset(
        name, archive.path, tuple(of_sets), of_sets.__getitem__, superclasses=superclasses, left_out=left_out
    )


@dataclass
class _Inside:
    """A folder in a zip: its files and folders by name, and what others are left out as."""

    files: dict[str, zipfile.ZipInfo] = field(default_factory=dict)
    folders: dict[str, "_Inside"] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def all_files(self) -> Iterator[zipfile.ZipInfo]:
        yield from self.files.values()
        for folder in self.folders.values():
            yield from folder.all_files()

    def all_left_out(self) -> Iterator[str]:
        yield from self.left_out
        for folder in self.folders.values():
            yield from folder.all_left_out()


def _unzipped(archive: "Archive") -> _Inside:
    """The folder that unzipping would give. Raises FewshotError for an encrypted file in it."""
    top = _Inside()
    left_out: set[tuple[str, ...]] = set()
    for member in archive.members():
        parts = _place(member).parts
        folder = top
        for depth, part in enumerate(parts, 1):
            if kind := passed_over(part):
                if parts[:depth] not in left_out:  # a folder counts once, whatever is in it
                    left_out.add(parts[:depth])
                    folder.left_out.append(kind)
                break
            if depth < len(parts) or member.is_dir():
                folder = folder.folders.setdefault(part, _Inside())
            elif not _is_image(part) and is_our_name(part):
                folder.left_out.append(OURS)
            else:
                if member.flag_bits & 1:
                    problem = f"{archive.path} is encrypted: {_place(member)}."
                    raise FewshotError(problem, "Unzip it, and zip it again without a password.")
                folder.files[part] = member
    return top


def _tree(inside: _Inside, path: Path) -> FolderTree:
    folders = [_tree(inside.folders[name], path / name) for name in sorted(inside.folders)]
    return FolderTree(path, any(map(_is_image, inside.files)), (), folders, False)


def _pictures(archive: "Archive", label: str, inside: _Inside) -> list[Stored]:
    """The pictures of a class, and of folders in it, in order. Raises FewshotError where it is empty."""
    if not any(inside.all_files()):
        raise FewshotError(f"The class {label!r} in {archive.path} is empty.", "Put images into it, or leave it out.")
    return [ZipMember(archive, one) for one in sorted(inside.all_files(), key=lambda one: str(_place(one)))]


def _place(member: zipfile.ZipInfo) -> PurePosixPath:
    """Where unzipping puts a member; some tools on Windows write backslashes."""
    return PurePosixPath(nfc(member.filename.replace("\\", "/")))


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


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
        """The files and folders in it; of members with the same name the last, as when unzipping."""
        return list({member.filename: member for member in self._zip.infolist()}.values())

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
