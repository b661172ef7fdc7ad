"""What somebody says of pictures, in a list: the classes that they are of."""

from pathlib import Path
from typing import NamedTuple

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import nfc
from fewshot_cli.images.sources.manifests import LABEL_COLUMNS, SUFFIXES, column_names, labelled_rows

CORRECT_COLUMNS = ("correct", "correct_label", "corrected", "truth", "true_label")
ANSWERED = "probability"
"""The column that tells answers of `fewshot predict` from labels that somebody gave."""


class Correction(NamedTuple):
    """The class that a picture is of, and the line that says so."""

    line: int
    path: Path
    label: str


def corrections(file: Path) -> list[Correction]:
    """The rows of a list that name a class, in the column `correct`, or `label` where there is none of that name.

    Pictures lie relative to the list, or else to the current folder. Raises FewshotError for a list of answers without
    a column `correct`, since an answer that nobody looked at is no truth.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise FewshotError(f"{file} is no list: its name ends in none of {', '.join(SUFFIXES)}.", "Give a CSV file.")
    names = column_names(file)
    has_truth = any(name in names for name in CORRECT_COLUMNS)
    if ANSWERED in names and not has_truth:
        raise FewshotError(
            f"{file} has the answers of a classifier, which are no truth.",
            "Add a column `correct`, and put the right class into it for the pictures that you looked at.",
        )
    rows = labelled_rows(file, CORRECT_COLUMNS if has_truth else LABEL_COLUMNS)
    said = [Correction(line, _picture(file, where), nfc(label)) for line, where, label in rows if where and label]
    if any("\0" in str(row.path) for row in said):
        raise FewshotError(f"{file}: a path can't hold a zero byte.", "Correct it.")
    return said


def _picture(file: Path, where: str) -> Path:
    """The picture; an apostrophe in front of it, as a spreadsheet is told that this is no formula, may go."""
    plain = [where, where.removeprefix("'")]
    spelled = plain + [each.replace("\\", "/") for each in plain]
    found = [folder / each for each in spelled for folder in (file.parent, Path())]
    return next((path for path in found if _is_file(path)), found[0])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False
