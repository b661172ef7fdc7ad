"""What classes are called without images, and names.csv beside their folders: what each is, in longer words."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import name_is_text, nfc
from fewshot_cli.images.sources.dataset import Dataset

NAMES = "names.csv"
COLUMNS = ("class", "description")


def descriptions(folder: Path, classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What the folder's names.csv says of its classes, each line once more of one; nothing where there is no such file.

    Raises FewshotError for a file that can't be read, and for a line of a class that there is not.
    """
    path = folder / NAMES
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file, strict=True), start=1):
                if number == 1 and tuple(cell.strip().lower() for cell in row) == COLUMNS:
                    continue
                if row:
                    label, text = _checked(path, number, row, classes)
                    found.setdefault(label, []).append(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FewshotError(f"{path} can't be read: {error}.", "It is a CSV file in UTF-8.") from None
    return {label: tuple(texts) for label, texts in found.items()}


def joined_descriptions(datasets: Iterable[Dataset]) -> dict[str, tuple[str, ...]]:
    """What the data sets' names.csv say of their classes; of two that describe a class the first counts."""
    known: dict[str, tuple[str, ...]] = {}
    for dataset in datasets:
        known = descriptions(dataset.root, dataset.classes) | known
    return known


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes, sorted. Raises FewshotError where they are no two classes."""
    classes = sorted(nfc(name.strip()) for name in names)
    if len(set(classes)) < 2 or not all(classes) or not all(map(name_is_text, classes)):
        raise FewshotError(
            f"--names {','.join(names)} does not name two classes or more.", "For example: --names hawk,kite,owl"
        )
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise FewshotError(f"--names has '{twice}' twice.", "Name each class once.")
    return tuple(classes)


def _checked(path: Path, number: int, row: Sequence[str], classes: Sequence[str]) -> tuple[str, str]:
    cells = [cell.strip() for cell in row]
    if len(cells) != len(COLUMNS) or not all(cells):
        raise FewshotError(
            f"{path}, line {number}: there is not a class and a description, but {len(cells)} columns.",
            'Each line is like: hawk,"hawk, a bird of prey"',
        )
    label, text = nfc(cells[0]), cells[1]
    if label not in classes:
        raise FewshotError(
            f"{path}, line {number}: there is no class '{label}'.", f"The folders are {', '.join(classes[:8])}."
        )
    return label, text
