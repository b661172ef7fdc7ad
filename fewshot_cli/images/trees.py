"""What lies where: which folders and files are data sets, and which are classes of one."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawn import DRAWN, drawn_pictures
from fewshot_cli.images.folders import IMAGE_SUFFIXES, SPLITS, entries, identity, nfc, read_folder
from fewshot_cli.images.found import Found, some
from fewshot_cli.images.lists import listed
from fewshot_cli.images.meta_dataset import meta_dataset
from fewshot_cli.images.stored import Stored, StoredFile
from fewshot_cli.images.zips import zipped

EXPECTED = (
    "Expected: a folder with one sub-folder per class, a folder of such folders, a .zip of class folders, a .csv, .tsv "
    "or .jsonl list with path and label, or a Meta-Dataset folder (dataset_spec.json beside .h5 files)."
)


def found_at(path: Path) -> list[Found]:
    """The data sets at a path, by the rules of `read_datasets`; raises FewshotError where there is no such path."""
    if path.is_dir():
        return _found_in(_look(path), "")
    if path == Path(DRAWN) and not path.exists():
        return [drawn_pictures()]
    if not path.exists():
        raise FewshotError(f"There is no {path}.", "Check the path; relative paths start at the current folder.")
    if path.suffix.lower() == ".zip":
        if found := zipped(path, nfc(path.stem)):
            return [found]
        raise FewshotError(
            f"{path} has no images in class folders.", "Zip a folder with one sub-folder per class: photos/cat/1.jpg"
        )
    if path.suffix.lower() in (".csv", ".tsv", ".jsonl"):
        return [listed(path)]
    raise FewshotError(f"{path} is no data set.", EXPECTED)


def class_folders(root: Path, name: str) -> Found:
    """The data set in a folder with one sub-folder per class."""
    folder = read_folder(root)
    pictures: dict[str, list[Stored]] = {label: [] for label in folder.classes}
    for item in folder.items:
        pictures[item.label].append(StoredFile(item.path))
    return Found(name, root, folder.classes, pictures.__getitem__)


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


def _found_in(tree: _Tree, name: str) -> list[Found]:
    """The data sets in a folder whose path below the one asked about is `name`, "" for that one."""
    own_name = name or nfc(os.path.basename(os.path.abspath(tree.path)))  # noqa: PTH100, PTH119  "." has a name, too
    if tree.specified:
        return [meta_dataset(tree.path, own_name)]
    reading = _reading(tree)
    if reading in ("classes", "one class") or (reading == "nothing" and tree.images):
        return [class_folders(tree.path, own_name)]  # which says best what is wrong with fewer than two classes
    sets = [folder for folder in tree.folders if _role(folder) in ("data set", "either")]
    if reading == "unclear":
        raise _unclear(tree, sets)
    if sets and not tree.zips and all(_is_part(folder) for folder in sets):
        return [Found(own_name, tree.path, (), lambda label: (), parts={nfc(one.path.name): one.path for one in sets})]
    within = f"{name}/" if name else ""
    found = [one for folder in sets for one in _found_in(folder, within + nfc(folder.path.name))]
    # A zip without pictures may be anything; only one that is asked for by name has to have some.
    return found + [inside for file in tree.zips if (inside := zipped(file, within + nfc(file.stem)))]


def _is_part(tree: _Tree) -> bool:
    return tree.path.name.casefold() in SPLITS and not tree.specified and _reading(tree) == "classes"


def _unclear(tree: _Tree, sets: Sequence[_Tree]) -> FewshotError:
    classes = [folder.path.name for folder in tree.folders if _role(folder) == "class"]
    others = [*(folder.path for folder in sets), *tree.zips]
    names = [path.name for path in others]
    return FewshotError(
        f"{tree.path} holds as many classes ({some(classes)}) as data sets ({some(names)}).",
        f"Point at one data set, for instance {others[0]}, or move them into different folders.",
    )
