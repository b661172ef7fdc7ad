"""What lies where: which folders and files are data sets, and which are classes of one. On disk and in zips alike."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import SPLITS
from fewshot_cli.images.sources.description import some


@dataclass(frozen=True)
class FolderTree:
    """A folder's shape: whether it holds images itself, its zips, its folders, whether Meta-Dataset specifies it."""

    path: Path
    images: bool
    zips: Sequence[Path]
    folders: Sequence["FolderTree"]
    specified: bool


Reading = Literal["classes", "one class", "data sets", "unclear", "nothing"]
Role = Literal["class", "data set", "either", "nothing"]


def reading(tree: FolderTree) -> Reading:
    """What a folder is when it is read by itself; the majority of what it holds decides."""
    roles = Counter(role(folder) for folder in tree.folders)
    classes, sets, either = roles["class"], roles["data set"] + len(tree.zips), roles["either"]
    if sets > classes:
        return "data sets"
    if sets == classes > 0:
        return "unclear"
    if classes + either == 0:
        return "nothing"
    return "classes" if classes + either > 1 else "one class"


def role(tree: FolderTree) -> Role:
    """What a folder is to the one that holds it."""
    if tree.specified:
        return "data set"
    found = reading(tree)
    if found in ("one class", "nothing"):
        return "class" if tree.images or found == "one class" else "nothing"
    return "either" if tree.images or found == "unclear" else "data set"


def data_sets_in(tree: FolderTree) -> list[FolderTree]:
    """The folders that are data sets in one that is read as such. Raises FewshotError where it is unclear."""
    sets = [folder for folder in tree.folders if role(folder) in ("data set", "either")]
    if reading(tree) == "unclear":
        raise _unclear(tree, sets)
    return sets


def are_parts(tree: FolderTree, sets: Sequence[FolderTree]) -> bool:
    """Whether all that a folder holds are the splits of one data set: folders called train, test and the like."""
    return bool(sets) and not tree.zips and all(map(_is_part, sets))


def _is_part(tree: FolderTree) -> bool:
    return tree.path.name.casefold() in SPLITS and not tree.specified and reading(tree) == "classes"


def _unclear(tree: FolderTree, sets: Sequence[FolderTree]) -> FewshotError:
    classes = [folder.path.name for folder in tree.folders if role(folder) == "class"]
    others = [*(folder.path for folder in sets), *tree.zips]
    names = [path.name for path in others]
    return FewshotError(
        f"{tree.path} holds as many classes ({some(classes)}) as data sets ({some(names)}).",
        f"Point at one data set, for instance {others[0]}, or move them into different folders.",
    )
