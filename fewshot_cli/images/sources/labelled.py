"""From a path to labelled pictures: the data sets that lie there, or the one that `adapt` and `doctor` read."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.images.sources.class_folders import (
    IMAGE_SUFFIXES,
    UNKNOWN,
    UNKNOWN_FOLDER,
    Folder,
    Item,
    class_name,
    entries,
    identity,
    nfc,
    read_folder,
)
from fewshot_cli.images.sources.description import FoundDataset
from fewshot_cli.images.sources.discovery import FolderTree, are_parts, data_sets_in, reading
from fewshot_cli.images.sources.fixed_split.reading import check_no_split, coop_split
from fewshot_cli.images.sources.manifests import SUFFIXES as LISTS
from fewshot_cli.images.sources.manifests import listed
from fewshot_cli.images.sources.meta_dataset import meta_dataset
from fewshot_cli.images.sources.synthetic import DRAWN, drawn_pictures
from fewshot_cli.images.sources.zips import zipped

EXPECTED = (
    "Expected: a folder with one sub-folder per class, a folder of such folders, a .zip of class folders, a .csv, "
    ".tsv or .jsonl list with path and label, a fixed split (split_zhou_*.json), or a Meta-Dataset folder "
    "(dataset_spec.json beside .h5 files)."
)


def found_at(path: Path) -> list[FoundDataset]:
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
    if path.suffix.lower() in LISTS:
        return [listed(path)]
    if path.suffix.lower() == ".json":
        return [coop_split(path)]
    raise FewshotError(f"{path} is no data set.", EXPECTED)


def read_labelled(path: Path, allow_empty: bool = False, several: bool = False) -> Folder:
    """The labelled images of one data set: a folder of class folders, a zip of such, or a list.

    With `several` a list may say several labels of an image, as an array; a + joins them to the name of a class.
    Images of the class `_unknown` are of the class `unknown`. Raises FewshotError for what `read_folder` refuses, for
    several data sets, and for parts of one.
    """
    if path.is_dir() or not path.exists():
        return _with_unknown(read_folder(path, allow_empty))
    is_list = path.suffix.lower() in LISTS
    if is_list:
        check_no_split(path)
    (found,) = [listed(path, several)] if is_list else found_at(path)
    if found.parts:
        raise FewshotError(
            f"{path} holds parts of a data set ({', '.join(found.parts)}), not classes.",
            "Take one of them out of it, and give that.",
        )
    classes = tuple(sorted(found.classes))
    if len(classes) < 2:
        which = f"a single class, {classes[0]!r}" if classes else "no class"
        raise FewshotError(f"{path} has {which}; telling apart takes two.", "Add a class, for instance 'other'.")
    items = tuple(Item(stored, label) for label in classes for stored in found.pictures(label))
    return _with_unknown(Folder(path, classes, items, found.loose, found.left_out, found.several))


def _with_unknown(labelled: Folder) -> Folder:
    """The images with those of the class _unknown in the class unknown."""
    if UNKNOWN_FOLDER not in labelled.classes:
        return labelled
    renamed = [Item(item.stored, class_name(item.label)) for item in labelled.items]
    classes = sorted({*labelled.classes, UNKNOWN} - {UNKNOWN_FOLDER})
    items = sorted(renamed, key=lambda item: item.label)
    return replace(labelled, classes=tuple(classes), items=tuple(items))


def class_folders(root: Path, name: str) -> FoundDataset:
    """The data set in a folder with one sub-folder per class."""
    folder = read_folder(root)
    pictures: dict[str, list[Stored]] = {label: [] for label in folder.classes}
    for item in folder.items:
        pictures[item.label].append(item.stored)
    return FoundDataset(name, root, folder.classes, pictures.__getitem__, loose=folder.loose, left_out=folder.left_out)


def _look(folder: Path, above: frozenset[str] = frozenset()) -> FolderTree:
    folders, files, _ = entries(folder)
    above |= {identity(folder)}
    if any((folder / name).is_file() for name in ("dataset_spec.json", "dataset_spec.pkl")):
        return FolderTree(folder, False, (), (), True)
    return FolderTree(
        folder,
        any(file.suffix.lower() in IMAGE_SUFFIXES for file in files),
        [file for file in files if file.suffix.lower() == ".zip"],
        [_look(inside, above) for inside in folders if identity(inside) not in above],
        False,
    )


def _found_in(tree: FolderTree, name: str) -> list[FoundDataset]:
    """The data sets in a folder whose path below the one asked about is `name`, "" for that one."""
    own_name = name or nfc(os.path.basename(os.path.abspath(tree.path)))  # noqa: PTH100, PTH119  "." has a name, too
    if tree.specified:
        return [meta_dataset(tree.path, own_name)]
    what = reading(tree)
    if what in ("classes", "one class") or (what == "nothing" and tree.images):
        return [class_folders(tree.path, own_name)]  # which says best what is wrong with fewer than two classes
    sets = data_sets_in(tree)
    if are_parts(tree, sets):
        parts = {nfc(one.path.name): partial(class_folders, one.path, own_name) for one in sets}
        return [FoundDataset(own_name, tree.path, (), lambda label: (), parts=parts)]
    within = f"{name}/" if name else ""
    found = [one for folder in sets for one in _found_in(folder, within + nfc(folder.path.name))]
    # A zip without pictures may be anything; only one that is asked for by name has to have some.
    return found + [inside for file in tree.zips if (inside := zipped(file, within + nfc(file.stem)))]
