"""Fixed splits as data: CoOp's JSON, and lists with a column `split`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored, StoredFile
from fewshot_cli.images.sources.class_folders import entries, nfc, order
from fewshot_cli.images.sources.description import FoundDataset, read_json
from fewshot_cli.images.sources.manifests import column_names, labelled_rows, picture_at

TRAIN, VAL, TEST = PARTS = ("train", "val", "test")
COLUMN = ("split",)
AS_COOP = 'It is like {"train": [["cat/1.jpg", 0, "cat"], ...], "val": [...], "test": [...]}.'
_ALIKE = {"valid": VAL, "validation": VAL}


class SplitRow(NamedTuple):
    """An image of a split: its path as written, its class, and where it was said."""

    path: str
    label: str
    where: str


def coop_split(path: Path) -> FoundDataset:
    """The split in a JSON file as CoOp (Zhou et al., 2022) writes them: split_zhou_OxfordPets.json and its kin.

    Paths are looked for in the file's folder and in each folder beside it. Classes are in the order of their labels.
    Raises FewshotError for what is no such file, a label with two names, an image in two parts, and images that are
    not there.
    """
    content = read_json(path)
    for part in (TRAIN, TEST):
        if not isinstance(content.get(part), list):
            raise FewshotError(f"{path} is no fixed split: it has no list '{part}'.", AS_COOP)
    names: dict[int, str] = {}
    rows: dict[str, list[SplitRow]] = {}
    for part in PARTS:
        entered = content.get(part, [])
        if not isinstance(entered, list):
            raise FewshotError(f"{path} is no fixed split: its '{part}' is no list.", AS_COOP)
        rows[part] = [_row(path, part, number, entry, names) for number, entry in enumerate(entered, 1)]
    classes = [names[label] for label in sorted(names)]
    if twice := next((name for name in classes if classes.count(name) > 1), None):
        raise FewshotError(f"{path}: two labels are called '{twice}'.", "Give each its own name, such as crane (bird).")
    return _found(path, path.stem.removeprefix("split_zhou_"), classes, rows)


def has_split(path: Path) -> bool:
    """Whether a list says in a column `split` which part each image is of."""
    return COLUMN[0] in column_names(path)


def check_no_split(path: Path) -> None:
    """Raises FewshotError where a list says of its images that they are of several parts of a data set."""
    if not has_split(path):
        return
    said = {said.casefold() for _, _, said in labelled_rows(path, COLUMN)}
    parts = sorted({_ALIKE.get(part, part) for part in said} & set(PARTS))
    if len(parts) > 1:
        raise FewshotError(
            f"{path} holds parts of a data set ({', '.join(parts)}), as its column split says.",
            "Keep the lines of one part in a list of their own, or leave the column out.",
        )


def listed_split(path: Path) -> FoundDataset:
    """The split in a list of path, class and split, in JSON lines or CSV; classes are in the order of their names.

    Raises FewshotError as `coop_split`, and for a part that is none of train, val and test.
    """
    rows: dict[str, list[SplitRow]] = {part: [] for part in PARTS}
    for (line, where, label), (_, _, said) in zip(labelled_rows(path), labelled_rows(path, COLUMN), strict=True):
        part = _ALIKE.get(said.casefold(), said.casefold())
        if part not in rows:
            raise FewshotError(
                f"{path}, line {line}: the split is '{said}', none of train, val and test.",
                'Each line is like {"path": "cat/1.jpg", "class": "cat", "split": "train"}.',
            )
        if not where or not label or "\0" in where:
            raise FewshotError(f"{path}, line {line}: path or class is empty, or no name.", "Fill it in.")
        rows[part].append(SplitRow(where, label, f"line {line}"))
    for part in (TRAIN, TEST):
        if not rows[part]:
            raise FewshotError(
                f"{path} has no image whose split is {part}.", "Give images to learn from and to ask about."
            )
    return _found(path, path.stem, sorted({row.label for row in _all(rows)}), rows)


def _row(path: Path, part: str, number: int, entry: Any, names: dict[int, str]) -> SplitRow:
    """The entry of a JSON file, its label's name remembered."""
    where = f"{part}, entry {number}"
    if not (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and type(entry[1]) is int
        and isinstance(entry[2], str)
        and entry[0].strip()
        and entry[2].strip()
        and "\0" not in entry[0]
    ):
        shown = json.dumps(entry, ensure_ascii=False)[:100]
        raise FewshotError(f"{path}, {where}: {shown} is not [path, label, class name].", AS_COOP)
    picture, label, name = entry[0], entry[1], nfc(entry[2].strip())
    if names.setdefault(label, name) != name:
        raise FewshotError(
            f"{path}, {where}: the label {label} is called '{name}' here and '{names[label]}' before.",
            "Give each label one name.",
        )
    return SplitRow(picture, name, where)


def _all(rows: dict[str, list[SplitRow]]) -> Iterator[SplitRow]:
    for part in PARTS:
        yield from rows[part]


def _found(path: Path, name: str, classes: Sequence[str], rows: dict[str, list[SplitRow]]) -> FoundDataset:
    _check_once(path, rows)
    folder = _folder_of(path, list(_all(rows)))
    parts = {part: partial(_part, path, nfc(name), classes, folder, rows[part]) for part in PARTS if rows[part]}
    return FoundDataset(nfc(name), path, tuple(classes), lambda label: (), parts=parts, is_fixed_split=True)


def _part(path: Path, name: str, classes: Sequence[str], folder: Path, rows: Iterable[SplitRow]) -> FoundDataset:
    """The images of one part as a data set of their own, without the classes that have none."""
    pictures: dict[str, list[Stored]] = {label: [] for label in classes}
    for picture, label in sorted({(picture_at(folder, row.path), row.label) for row in rows}, key=_in_order):
        pictures[label].append(StoredFile(picture))
    there = tuple(label for label in classes if pictures[label])
    return FoundDataset(name, path, there, pictures.__getitem__)


def _in_order(item: tuple[Path, str]) -> tuple[str, str]:
    return order(item[0])


def _check_once(path: Path, rows: dict[str, list[SplitRow]]) -> None:
    """Raises FewshotError where an image is in two parts, or of two classes."""
    seen: dict[str, tuple[str, str]] = {}
    for part in PARTS:
        for row in rows[part]:
            before, label = seen.setdefault(row.path, (part, row.label))
            if before != part:
                raise FewshotError(f"{path}: {row.path} is in {before} and in {part}.", "Keep it in one of them.")
            if label != row.label:
                raise FewshotError(
                    f"{path}, {row.where}: {row.path} is labelled '{row.label}' here and '{label}' before.",
                    "Keep the right line only.",
                )


def _folder_of(path: Path, rows: Sequence[SplitRow]) -> Path:
    """The folder that holds all the images. Raises FewshotError where none does, with what is missing."""
    home = path.parent
    folders = [home, *entries(home).folders]
    first = next((folder for folder in folders if picture_at(folder, rows[0].path).is_file()), None)
    nearest = first or max(folders, key=lambda folder: sum(picture_at(folder, row.path).is_file() for row in rows[:50]))
    missing = [row.path for row in rows if not picture_at(nearest, row.path).is_file()]
    if missing:
        raise FewshotError(
            f"{path}: {len(missing)} of {len(rows)} images are not there, such as {missing[0]}.",
            f"Paths are looked for in {home} and in each folder in it: put the folder of images there.",
        )
    return nearest
