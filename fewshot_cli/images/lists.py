"""Data sets in lists: CSV and JSON lines with a path and a label."""

import csv
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.folders import nfc, order
from fewshot_cli.images.found import Found, some
from fewshot_cli.images.stored import Stored, StoredFile

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "category")
DELIMITERS = ",;\t|"
_JSON_LINE = 'Each line is like {"path": "cats/1.jpg", "label": "cat"}.'


def listed(path: Path) -> Found:
    """The data set in a CSV or JSON-lines file; a picture listed twice counts once."""
    rows = _json_rows if path.suffix.lower() == ".jsonl" else _csv_rows
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
                picture = _place(path, where)
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
    return Found(nfc(path.stem), path, tuple(pictures), pictures.__getitem__)


def _place(path: Path, where: str) -> Path:
    """The file that a list names, from the folder that the list lies in; with the backslashes of Windows or without."""
    picture = path.parent / where
    if "\\" in where and not picture.exists():
        return path.parent / where.replace("\\", "/")
    return picture


def _csv_rows(path: Path, file: TextIO) -> Iterator[tuple[int, str, str]]:
    """The line number, path and label of each row of a CSV file whose header names both, among other columns."""
    header, line = file.readline(), 1
    declared = re.fullmatch(r"\s*\"?sep=(.)\"?\s*", header)  # as spreadsheets write and read it
    if declared:
        header, line = file.readline(), 2

    def columns(delimiter: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter), [])]

    def places(delimiter: str) -> list[int | None]:
        names = [name.casefold() for name in columns(delimiter)]
        wanted = (PATH_COLUMNS, LABEL_COLUMNS)
        return [next((names.index(one) for one in some if one in names), None) for some in wanted]

    try:
        delimiters = declared[1] if declared else DELIMITERS
        delimiter = max(delimiters, key=lambda one: 2 - places(one).count(None))
        where, what = places(delimiter)
        if where is None or what is None:
            raise FewshotError(
                f"{path}, line {line}: there is no column {'path' if where is None else 'label'}, "
                f"only {some(columns(delimiter)) or 'nothing'}.",
                "Begin the file with a header line that names the columns: path,label",
            )
        rows = csv.reader(file, delimiter=delimiter)
        width, before = len(columns(delimiter)), line
        for cells in rows:
            line = before + rows.line_num
            if any(cell.strip() for cell in cells[width:]):
                raise FewshotError(
                    f"{path}, line {line}: {len(cells)} columns, and the header names {width}.",
                    f"Put quotes around a value that holds {delimiter!r}.",
                )
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
            missing, names = ("label", LABEL_COLUMNS) if where is not None else ("path", PATH_COLUMNS)
            if any(name in row for name in names):
                raise FewshotError(f"{path}, line {line}: the {missing} is null.", "Fill it in.")
            raise FewshotError(f"{path}, line {line}: there is no {missing!r}, only {some(list(row))}.", _JSON_LINE)
        if isinstance(label, float) and not math.isfinite(label):
            raise FewshotError(f"{path}, line {line}: the label is {label}, which is none.", "Fill it in.")
        if not isinstance(where, str) or isinstance(label, bool) or not isinstance(label, str | int | float):
            wrong = "path" if not isinstance(where, str) else "label"
            raise FewshotError(f"{path}, line {line}: the {wrong} is no text.", _JSON_LINE)
        yield line, where, nfc(str(label).strip())
