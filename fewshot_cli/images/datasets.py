"""Labelled pictures, wherever they lie: class folders, folders of data sets, lists, zips, Meta-Dataset's HDF5 files."""

import csv
import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, Literal, Protocol, TextIO, TypeVar

import numpy as np

from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError
from fewshot_cli.images import decode, drawing
from fewshot_cli.images.decode import ImageError, Pixels
from fewshot_cli.images.folders import IMAGE_SUFFIXES, SPLITS, entries, identity, ignored, nfc, order, read_folder

Key = TypeVar("Key")
Groups = Mapping[str, Sequence[str]]  # names of classes under the name of the group

LARGEST_MEMBER = 500_000_000  # bytes that one picture in a zip may unfold to
DRAWN = "drawn"  # the name under which the drawn pictures are asked for
DRAWN_PER_CLASS = 20
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "category")
DELIMITERS = ",;\t|"
PARTS = ("train", "valid", "test")  # of a Meta-Dataset specification, in the order in which it counts classes

EXPECTED = (
    "Expected: a folder with one sub-folder per class, a folder of such folders, a .zip of class folders, a .csv or "
    ".jsonl list with path and label, or a Meta-Dataset folder (dataset_spec.json beside .h5 files)."
)


class Stored(Protocol):
    """One picture, wherever it lies; several threads may ask at once."""

    @property
    def name(self) -> str:
        """What people call it: "cats/1.jpg", "archive.zip: cats/1.jpg", "3.h5: image 7"."""

    def content_hash(self) -> str:
        """The SHA-256 of its bytes in hexadecimal; raises ImageError when they can't be read."""

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it, `(3, height, width)`; raises ImageError when there is none."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and the index of its class."""

    stored: Stored
    label: int


@dataclass(frozen=True)
class Dataset:
    """Labelled pictures under a name: sorted classes, samples sorted by class and path, the same on every machine.

    `nodes` and `superclasses` name groups of classes, by index, that an episode may be drawn from; empty where none are
    known. Groups may overlap.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    nodes: Mapping[str, tuple[int, ...]]
    superclasses: Mapping[str, tuple[int, ...]]


def read_datasets(path: Path, split: str | None = None) -> list[Dataset]:
    """The data sets at `path`, sorted by name; no picture is looked at. Raises FewshotError where something is amiss.

    A folder is one data set, read by `read_folder`, or a folder of data sets, named by their paths in it; what it holds
    more of decides, and a tie is an error. A sub-folder that holds images is a class, and so is one that holds nothing
    but one class. A sub-folder without images of its own that holds two classes is a data set; so is a zip, and a
    Meta-Dataset folder. A sub-folder with both images and classes in it is what its neighbours are. Thus
    `cat/{young,old}/1.jpg` beside `dog/{young,old}/1.jpg` are the data sets cat and dog, but `cat/photos/1.jpg` beside
    `dog/photos/1.jpg` the classes cat and dog. What is left over in a folder of data sets is passed over.

    `split` keeps the classes that `splits.json` (`NAME.splits.json` beside a file) lists under this name; where a data
    set lies in folders called train, test and the like, it takes the folder of this name. Meta-Dataset folders bring
    their own splits, and "test" is taken unless one is named.
    """
    found = _found_at(path)
    if not found:
        raise FewshotError(f"{path} holds no data set.", EXPECTED)
    if repeated := [name for name, count in Counter(one.name for one in found).items() if count > 1]:
        raise FewshotError(
            f"{path} has two data sets called {repeated[0]!r}: a zip beside its folder, perhaps.",
            "Move one of them elsewhere.",
        )
    return [_dataset(one, split) for one in sorted(found, key=lambda one: one.name)]


# --- pictures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A picture in a file of its own."""

    path: Path

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    def content_hash(self) -> str:
        """The SHA-256 of the file."""
        return decode.content_hash(self.path)

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it."""
        return decode.load(self.path, preprocessing)


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
class ZipMember:
    """A picture in a zip file, which is never unpacked to disk."""

    archive: Archive
    member: zipfile.ZipInfo

    @property
    def name(self) -> str:
        """The zip file and the path in it."""
        return f"{self.archive.path}: {self.member.filename}"

    def content_hash(self) -> str:
        """The SHA-256 of the unzipped bytes: that of the file, if it were one."""
        return hashlib.sha256(self.archive.read(self.member)).hexdigest()

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it."""
        return decode.load_bytes(self.archive.read(self.member), preprocessing)


@dataclass(frozen=True, slots=True)
class H5Image:
    """A picture in a class's HDF5 file, as P>M>F distributes Meta-Dataset: `INDEX/image`, RGB in 8 bits."""

    path: Path
    index: int

    @property
    def name(self) -> str:
        """The file and the number in it."""
        return f"{self.path}: image {self.index}"

    def content_hash(self) -> str:
        """The SHA-256 of its shape and pixels."""
        return _pixels_hash(self._pixels())

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it."""
        return decode.load_array(self._pixels(), preprocessing)

    def _pixels(self) -> Pixels:
        h5py = _h5py()
        try:
            with _H5_LOCK, h5py.File(self.path, "r") as file:
                stored = file[f"{self.index}/image"]
                if stored.dtype != np.uint8 or stored.size > 3 * decode.LARGEST:  # looked at before it fills the memory
                    kind = f"{stored.dtype} of shape {stored.shape}"
                    raise ImageError("unreadable", f"not a picture in 8 bits but {kind}", _CONVERT_AGAIN)
                return np.asarray(stored[()])
        except KeyError as error:
            raise ImageError("unreadable", f"the file has no image {self.index}", _CONVERT_AGAIN) from error
        except (OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ImageError("truncated", "the HDF5 file is damaged or can't be read", _CONVERT_AGAIN) from error


@dataclass(frozen=True, slots=True)
class DrawnPicture:
    """One of the drawn pictures: the same for the same class and seed, made in memory."""

    label: str
    seed: int

    @property
    def name(self) -> str:
        """The class and the seed."""
        return f"{DRAWN}: {self.label} {self.seed}"

    def content_hash(self) -> str:
        """The SHA-256 of its shape and pixels."""
        return _pixels_hash(_drawn(self.label, self.seed))

    def load(self, preprocessing: Preprocessing) -> Pixels:
        """The picture as the backbone sees it."""
        return decode.load_array(_drawn(self.label, self.seed), preprocessing)


_CONVERT_AGAIN = "Convert or download the data set again."
_H5_LOCK = Lock()  # the HDF5 library is not made for threads


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise FewshotError(
            "Reading .h5 files needs h5py, which is not installed.", "Run: pip install 'fewshot-cli[hdf5]'"
        ) from None
    return h5py


@lru_cache(maxsize=DRAWN_PER_CLASS * len(drawing.CLASSES))
def _drawn(label: str, seed: int) -> Pixels:
    return np.asarray(drawing.draw(label, seed))


def _pixels_hash(picture: Pixels) -> str:
    return hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()


# --- from what is found to a data set ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A data set before its split is taken and the files beside it are read; everything goes by the classes' names.

    `pictures` gives those of a class in order. `splits` is None where a file beside it may say them. `parts` are the
    folders of its splits, by name, where it lies in such: one of them is what to read.
    """

    name: str
    root: Path
    classes: Sequence[str]
    pictures: Callable[[str], Sequence[Stored]]
    nodes: Groups = field(default_factory=dict)
    superclasses: Groups = field(default_factory=dict)
    splits: Groups | None = None
    usual_split: str | None = None
    parts: Mapping[str, Path] = field(default_factory=dict)


def _dataset(found: _Found, split: str | None) -> Dataset:
    if found.parts:
        return _dataset(_part(found, split), None)
    split = split or found.usual_split
    classes = tuple(sorted(found.classes if split is None else _of_split(found, split)))
    if len(classes) < 2:
        which = f"{found.name}" if split is None else f"The split {split!r} of {found.name}"
        raise FewshotError(
            f"{which} has {'a single class' if classes else 'no class'}; telling apart takes two.",
            "Add classes, or choose another split." if split else "Add a class, for instance 'other'.",
        )
    numbers = {name: number for number, name in enumerate(classes)}
    nodes, superclasses = _beside(found, "hierarchy"), _beside(found, "superclass")
    return Dataset(
        found.name,
        found.root,
        classes,
        tuple(Sample(stored, numbers[name]) for name in classes for stored in found.pictures(name)),
        _by_number(found.nodes if nodes is None else nodes, numbers),
        _by_number(found.superclasses if superclasses is None else superclasses, numbers),
    )


def _of_split(found: _Found, split: str) -> Sequence[str]:
    splits = found.splits if found.splits is not None else _beside(found, "splits")
    if splits is None:
        raise FewshotError(
            f"{found.name} has no split {split!r}: there is no {_side_file(found.root, 'splits')}.",
            'Write it as {"train": [class names], "test": [class names]}, or ask for no split.',
        )
    if split not in splits:
        raise FewshotError(f"{found.name} has no split {split!r}.", f"Choose one of: {', '.join(splits) or 'none'}.")
    return tuple(dict.fromkeys(splits[split]))


def _part(found: _Found, split: str | None) -> _Found:
    """The data set in the folder that `split` names, of one that lies in folders called train, test and the like."""
    hint = f"Choose one of these as the split, or point at its folder: {', '.join(found.parts)}."
    if split is None:
        raise FewshotError(f"{found.root} holds parts of a data set ({', '.join(found.parts)}), not classes.", hint)
    if split not in found.parts:
        raise FewshotError(f"{found.name} has no split {split!r}.", hint)
    return _class_folders(found.parts[split], found.name)


def _by_number(groups: Groups, numbers: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The groups with their classes as sorted numbers; classes that the split left out are, and so are empty groups."""
    numbered = {
        group: tuple(sorted({numbers[name] for name in groups[group] if name in numbers})) for group in sorted(groups)
    }
    return {group: members for group, members in numbered.items() if members}


def _beside(found: _Found, what: Literal["splits", "hierarchy", "superclass"]) -> Groups | None:
    """The groups of classes in the file that goes with a data set; None where there is no such file."""
    path = _side_file(found.root, what)
    if not path.is_file():
        return None
    groups = {}
    for group, names in _read_json(path).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FewshotError(f"{path}: {group!r} is not a list of class names.", 'Write it as {"name": ["cat"]}.')
        groups[nfc(group)] = [nfc(name) for name in names]
    unknown = sorted({name for names in groups.values() for name in names} - set(found.classes))
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise FewshotError(
            f"{path} names classes that {found.name} has not: {', '.join(map(repr, unknown[:5]))}{more}.",
            f"Its classes are called {_some(found.classes)}.",
        )
    return groups


def _side_file(root: Path, what: str) -> Path:
    return root / f"{what}.json" if root.is_dir() else root.with_name(f"{root.stem}.{what}.json")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FewshotError(f"{path} can't be read: {error.strerror}.", "Check its permissions.") from None
    except (ValueError, RecursionError) as error:
        raise FewshotError(f"{path} is not JSON: {error}.", "Correct it, or write it anew.") from None
    if not isinstance(content, dict):
        raise FewshotError(f"{path} is not a JSON object.", 'It begins with "{" and ends with "}".')
    return content


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


# --- what lies where -----------------------------------------------------------------------------------------------


def _found_at(path: Path) -> list[_Found]:
    if path.is_dir():
        return _found_in(_look(path), "")
    if path == Path(DRAWN) and not path.exists():
        return [_drawn_pictures()]
    if not path.exists():
        raise FewshotError(f"There is no {path}.", "Check the path; relative paths start at the current folder.")
    if path.suffix.lower() == ".zip":
        if found := _zipped(path, nfc(path.stem)):
            return [found]
        raise FewshotError(
            f"{path} has no images in class folders.", "Zip a folder with one sub-folder per class: photos/cat/1.jpg"
        )
    if path.suffix.lower() in (".csv", ".jsonl"):
        return [_listed(path)]
    raise FewshotError(f"{path} is no data set.", EXPECTED)


@dataclass(frozen=True)
class _Tree:
    """A folder's shape: whether it holds images itself, its zips, its folders, whether Meta-Dataset specifies it."""

    path: Path
    images: bool
    zips: Sequence[Path]
    folders: Sequence["_Tree"]
    specified: bool


Reading = Literal["classes", "one class", "data sets", "unclear", "nothing"]
Role = Literal["class", "data set", "either", "nothing"]


def _look(folder: Path, above: frozenset[str] = frozenset()) -> _Tree:
    folders, files = entries(folder)
    above |= {identity(folder)}
    names = {file.name for file in files}
    if names & {"dataset_spec.json", "dataset_spec.pkl"}:
        return _Tree(folder, False, (), (), True)
    return _Tree(
        folder,
        any(file.suffix.lower() in IMAGE_SUFFIXES for file in files),
        [file for file in files if file.suffix.lower() == ".zip"],
        [_look(inside, above) for inside in folders if identity(inside) not in above],
        False,
    )


def _reading(tree: _Tree) -> Reading:
    """What a folder is when it is read by itself; the majority of what it holds decides."""
    roles = Counter(_role(folder) for folder in tree.folders)
    classes, sets, either = roles["class"], roles["data set"] + len(tree.zips), roles["either"]
    if sets > classes:
        return "data sets"
    if sets == classes > 0:
        return "unclear"
    if classes + either == 0:
        return "nothing"
    return "classes" if classes + either > 1 else "one class"


def _role(tree: _Tree) -> Role:
    """What a folder is to the one that holds it."""
    if tree.specified:
        return "data set"
    reading = _reading(tree)
    if reading in ("one class", "nothing"):
        return "class" if tree.images or reading == "one class" else "nothing"
    return "either" if tree.images or reading == "unclear" else "data set"


def _found_in(tree: _Tree, name: str) -> list[_Found]:
    """The data sets in a folder whose path below the one asked about is `name`, "" for that one."""
    own_name = name or nfc(os.path.basename(os.path.abspath(tree.path)))  # noqa: PTH100, PTH119  "." has a name, too
    if tree.specified:
        return [_meta_dataset(tree.path, own_name)]
    reading = _reading(tree)
    if reading in ("classes", "one class") or (reading == "nothing" and tree.images):
        return [_class_folders(tree.path, own_name)]  # which says best what is wrong with fewer than two classes
    sets = [folder for folder in tree.folders if _role(folder) in ("data set", "either")]
    if reading == "unclear":
        raise _unclear(tree, sets)
    if sets and not tree.zips and all(_is_part(folder) for folder in sets):
        return [_Found(own_name, tree.path, (), lambda label: (), parts={nfc(one.path.name): one.path for one in sets})]
    within = f"{name}/" if name else ""
    found = [one for folder in sets for one in _found_in(folder, within + nfc(folder.path.name))]
    # A zip without pictures may be anything; only one that is asked for by name has to have some.
    return found + [zipped for file in tree.zips if (zipped := _zipped(file, within + nfc(file.stem)))]


def _is_part(tree: _Tree) -> bool:
    return tree.path.name.casefold() in SPLITS and not tree.specified and _reading(tree) == "classes"


def _unclear(tree: _Tree, sets: Sequence[_Tree]) -> FewshotError:
    classes = [folder.path.name for folder in tree.folders if _role(folder) == "class"]
    others = [*(folder.path for folder in sets), *tree.zips]
    names = [path.name for path in others]
    return FewshotError(
        f"{tree.path} holds as many classes ({_some(classes)}) as data sets ({_some(names)}).",
        f"Point at one data set, for instance {others[0]}, or move them into different folders.",
    )


# --- class folders, drawn pictures, lists, zips --------------------------------------------------------------------


def _class_folders(root: Path, name: str) -> _Found:
    folder = read_folder(root)
    pictures: dict[str, list[Stored]] = {label: [] for label in folder.classes}
    for item in folder.items:
        pictures[item.label].append(StoredFile(item.path))
    return _Found(name, root, folder.classes, pictures.__getitem__)


def _drawn_pictures() -> _Found:
    return _Found(
        DRAWN,
        Path(DRAWN),
        drawing.CLASSES,
        lambda label: [DrawnPicture(label, seed) for seed in range(DRAWN_PER_CLASS)],
    )


def _listed(path: Path) -> _Found:
    """The data set in a CSV or JSON-lines file; a picture listed twice counts once."""
    rows = _csv_rows if path.suffix.lower() == ".csv" else _json_rows
    labels: dict[Path, str] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, where, label in rows(path, file):
                if not where or not label:
                    raise FewshotError(
                        f"{path}, line {line}: the {'label' if where else 'path'} is empty.", "Fill it in."
                    )
                if "\0" in where:
                    raise FewshotError(f"{path}, line {line}: a path can't hold a zero byte.", "Correct it.")
                picture = path.parent / where
                if labels.setdefault(picture, label) != label:
                    problem = f"{where} is labelled {label!r} here and {labels[picture]!r} before"
                    raise FewshotError(f"{path}, line {line}: {problem}.", "Keep the right line only.")
    except UnicodeDecodeError:
        raise FewshotError(f"{path} is not text in UTF-8.", "Save it as UTF-8.") from None
    except OSError as error:
        raise FewshotError(f"{path} can't be read: {error.strerror}.", "Check its permissions.") from None
    pictures: dict[str, list[Stored]] = {}
    for picture in sorted(labels, key=order):
        pictures.setdefault(labels[picture], []).append(StoredFile(picture))
    return _Found(nfc(path.stem), path, tuple(pictures), pictures.__getitem__)


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, str, str]]:
    """The line number, path and label of each row of a CSV file whose header names both, among other columns."""
    header = file.readline()
    line = 1

    def columns(delimiter: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter), [])]

    def places(delimiter: str) -> list[int | None]:
        names = [name.casefold() for name in columns(delimiter)]
        wanted = (PATH_COLUMNS, LABEL_COLUMNS)
        return [next((names.index(one) for one in some if one in names), None) for some in wanted]

    try:
        delimiter = max(DELIMITERS, key=lambda one: 2 - places(one).count(None))
        where, what = places(delimiter)
        if where is None or what is None:
            raise FewshotError(
                f"{path}, line 1: there is no column {'path' if where is None else 'label'}, "
                f"only {_some(columns(delimiter)) or 'nothing'}.",
                "Begin the file with a header line that names the columns: path,label",
            )
        rows = csv.reader(file, delimiter=delimiter)
        for cells in rows:
            line = rows.line_num + 1
            if len(cells) > max(where, what):
                yield line, cells[where].strip(), nfc(cells[what].strip())
            elif any(cells):
                raise FewshotError(f"{path}, line {line}: too few columns.", "Give each line a path and a label.")
    except csv.Error as error:
        raise FewshotError(f"{path}, line {line} or the next: {error}.", "Correct this line.") from None


def _json_rows(path: Path, file: TextIO) -> Iterator[tuple[int, str, str]]:
    """The line number, path and label of each object; numbers are labels, too."""
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FewshotError(f"{path}, line {line}: not JSON: {error}.", _JSON_LINE) from None
        if not isinstance(row, dict):
            raise FewshotError(f"{path}, line {line}: not an object.", _JSON_LINE)
        where, label = (next((row[one] for one in some if one in row), None) for some in (PATH_COLUMNS, LABEL_COLUMNS))
        if where is None or label is None:
            missing = "label" if where is not None else "path"
            raise FewshotError(f"{path}, line {line}: there is no {missing!r}, only {_some(list(row))}.", _JSON_LINE)
        if not isinstance(where, str) or isinstance(label, bool) or not isinstance(label, str | int | float):
            wrong = "path" if not isinstance(where, str) else "label"
            raise FewshotError(f"{path}, line {line}: the {wrong} is no text.", _JSON_LINE)
        yield line, where, nfc(str(label).strip())


_JSON_LINE = 'Each line is like {"path": "cats/1.jpg", "label": "cat"}.'


def _zipped(path: Path, name: str) -> _Found | None:
    """The data set in a zip file; None where no folder in it holds an image."""
    archive = Archive(path)
    members: dict[tuple[str, ...], list[zipfile.ZipInfo]] = {}
    for member in archive.members():
        place = PurePosixPath(nfc(member.filename.replace("\\", "/")))  # as some tools on Windows write it
        if place.suffix.lower() in IMAGE_SUFFIXES and not any(map(ignored, place.parts)):
            if member.flag_bits & 1:
                raise FewshotError(f"{path} is encrypted: {place}.", "Unzip it, and zip it again without a password.")
            members.setdefault(place.parts[:-1], []).append(member)
    members.pop((), None)  # outside of any folder, and so without a label
    if not members:
        return None
    common = _common_beginning([parts[:-1] for parts in members])
    pictures: dict[str, list[Stored]] = {}
    superclasses: dict[str, list[str]] = {}
    for parts, inside in members.items():
        label = "/".join(parts[common:])
        pictures[label] = [ZipMember(archive, one) for one in sorted(inside, key=lambda one: nfc(one.filename))]
        superclasses.setdefault("/".join(parts[common:-1]), []).append(label)
    return _Found(
        name, path, tuple(pictures), pictures.__getitem__, superclasses={} if "" in superclasses else superclasses
    )


def _common_beginning(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all the paths begin with in common."""
    return next((i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), min(map(len, paths)))


# --- Meta-Dataset --------------------------------------------------------------------------------------------------


def _meta_dataset(root: Path, name: str) -> _Found:
    """The data set in a folder as P>M>F (Hu et al., 2022) distributes Meta-Dataset (Triantafillou et al., 2020)."""
    path = root / "dataset_spec.json"
    if not path.is_file():
        raise FewshotError(
            f"{root} describes itself in dataset_spec.pkl, a pickle: it could run code, and is not read.",
            "Write dataset_spec.json once, with load_dataset_spec(folder, convert_from_pkl=True) of Meta-Dataset.",
        )
    _h5py()
    content = _read_json(path)
    try:
        return _specified(content, root, name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise FewshotError(
            f"{path} is not a specification that Meta-Dataset writes: {type(error).__name__}: {error}.",
            "Download or convert the data set again.",
        ) from None


def _specified(spec: dict[str, Any], root: Path, name: str) -> _Found:
    names = _unique(spec["class_names"])
    if "split_subgraphs" in spec:
        numbered = _of_graph(spec)
    elif "superclasses_per_split" in spec:
        numbered = _of_two_levels(spec)
    else:
        numbered = _of_one_level(spec)
    numbers = {names[number]: number for split in numbered.splits.values() for number in split}
    counts = {label: numbered.counts[number] for label, number in numbers.items()}

    def pictures(label: str) -> Sequence[Stored]:
        path = root / f"{numbers[label]}.h5"
        if not path.is_file():
            raise FewshotError(
                f"{root} has no {path.name}, where its dataset_spec.json puts the class {label!r}.",
                "Download or convert the data set again.",
            )
        return [H5Image(path, index) for index in range(counts[label])]

    def named(groups: Mapping[str, Collection[int]]) -> Groups:
        return {group: [names[number] for number in members] for group, members in groups.items()}

    nodes, superclasses, splits = named(numbered.nodes), named(numbered.superclasses), named(numbered.splits)
    return _Found(name, root, tuple(numbers), pictures, nodes, superclasses, splits, usual_split="test")


@dataclass(frozen=True)
class _Numbered:
    """What a specification says of the classes, which are numbered without gaps through train, valid and test."""

    splits: Mapping[str, Collection[int]]
    counts: Mapping[int, int]
    nodes: Mapping[str, Collection[int]] = field(default_factory=dict)
    superclasses: Mapping[str, Collection[int]] = field(default_factory=dict)


def _of_one_level(spec: dict[str, Any]) -> _Numbered:
    """Each split has so many classes."""
    return _Numbered(_runs(_per_part(spec["classes_per_split"])), _counts(spec))


def _of_two_levels(spec: dict[str, Any]) -> _Numbered:
    """Each split has so many superclasses, and each of these so many classes: the alphabets of Omniglot."""
    titles = _unique(spec["superclass_names"])
    classes = _runs({number: int(spec["classes_per_superclass"][str(number)]) for number in sorted(titles)})
    superclasses = _runs(_per_part(spec["superclasses_per_split"]))
    return _Numbered(
        {part: [number for one in superclasses[part] for number in classes[one]] for part in PARTS},
        _counts(spec),
        superclasses={titles[number]: run for number, run in classes.items()},
    )


def _of_graph(spec: dict[str, Any]) -> _Numbered:
    """Each split is a graph whose leaves are its classes: the part of WordNet above ImageNet's, named by its ids.

    A node may be in several of the graphs, with other leaves in each; every class is in one, so they may be united.
    """
    numbers = {str(wordnet_id): int(number) for number, wordnet_id in spec["class_names"].items()}
    splits: dict[str, list[int]] = {}
    counts: dict[int, int] = {}
    nodes: dict[str, set[int]] = {}
    for part in PARTS:
        images = spec["images_per_class"][part.upper()]
        spans = _leaves(spec["split_subgraphs"][part.upper()])
        splits[part] = sorted(numbers[leaf] for node, leaves in spans.items() for leaf in leaves if leaf == node)
        for node, leaves in spans.items():
            if node in leaves:
                counts[numbers[node]] = int(images[node])
            else:
                nodes.setdefault(node, set()).update(numbers[leaf] for leaf in leaves)
    return _Numbered(splits, counts, nodes)


def _leaves(graph: list[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """The leaves that each node of a graph leads to; a leaf leads to itself."""
    children: dict[str, list[str]] = {str(node["wn_id"]): node["children_ids"] for node in graph}
    found: dict[str, frozenset[str]] = {}

    def below(node: str) -> frozenset[str]:
        if node not in found:
            found[node] = frozenset().union(*map(below, children[node])) if children[node] else frozenset([node])
        return found[node]

    return {node: below(node) for node in children}


def _counts(spec: dict[str, Any]) -> dict[int, int]:
    """Each class's number of images: a number, or one for each of the pools that some data sets come in."""
    return {
        int(number): sum(map(int, images.values())) if isinstance(images, dict) else int(images)
        for number, images in spec["images_per_class"].items()
    }


def _per_part(sizes: dict[str, Any]) -> dict[str, int]:
    return {part: int(sizes[part.upper()]) for part in PARTS}


def _runs(sizes: Mapping[Key, int]) -> dict[Key, range]:
    """The numbers that belong to each, when each takes so many in turn."""
    ends = accumulate(sizes.values())
    return {key: range(end - size, end) for (key, size), end in zip(sizes.items(), ends, strict=True)}


def _unique(names: dict[str, Any]) -> dict[int, str]:
    """The names by number; one that is there twice ends in its number."""
    texts = {int(number): nfc(str(name)) for number, name in names.items()}
    repeated = Counter(texts.values())
    return {number: f"{text} ({number})" if repeated[text] > 1 else text for number, text in texts.items()}
