"""Data sets in lists: CSV and JSON lines with a path and a label."""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TextIO

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored, StoredFile
from fewshot_cli.images.sources.class_folders import nfc, order
from fewshot_cli.images.sources.description import FoundDataset, some
from fewshot_cli.images.sources.leftovers import counted, left_over

SUFFIXES = (".csv", ".tsv", ".jsonl")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "img", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "category")
DELIMITERS = ",;\t|"
_JSON_LINE = 'Each line is like {"path": "cats/1.jpg", "label": "cat"}.'
_DELIMITER_LINE = re.compile(r'"?sep=(.)"?[,;\t]*', re.IGNORECASE)  # for spreadsheets, which write and read it


def listed(path: Path, several: bool = False) -> FoundDataset:
    """The data set in a CSV or JSON-lines file; a picture listed twice counts once.

    With `several` the label in JSON lines may be an array of labels, which a + joins.

    What systems and programs leave behind is left out, as from folders; hidden files that a list names are not.
    """
    labels: dict[Path, str] = {}
    left_out: list[str] = []
    joined = False
    for line, where, label in labelled_rows(path, several=several):
        _check_row(path, line, where, label)
        joined = joined or isinstance(label, JoinedLabels)
        if kind := next(filter(None, map(left_over, _written(where).parts)), None):
            left_out.append(kind)
            continue
        picture = picture_at(path.parent, where)
        if labels.setdefault(picture, label) != label:
            problem = f"{where} is labelled {label!r} here and {labels[picture]!r} before"
            raise FewshotError(f"{path}, line {line}: {problem}.", "Keep the right line only.")
    pictures: dict[str, list[Stored]] = {}
    for picture in sorted(labels, key=order):
        pictures.setdefault(labels[picture], []).append(StoredFile(picture))
    return FoundDataset(
        nfc(path.stem), path, tuple(pictures), pictures.__getitem__, left_out=counted(left_out), several=joined
    )


class JoinedLabels(str):
    """Several labels of one image, which a + joins."""


def labelled_rows(
    path: Path, labels: Sequence[str] = LABEL_COLUMNS, several: bool = False
) -> Iterator[tuple[int, str, str]]:
    """The line number, path and label of each row, the label in the first column that is called as one of `labels`."""
    with _opened(path) as file:
        if path.suffix.lower() == ".jsonl":
            yield from _json_rows(path, file, labels, several)
        else:
            yield from _csv_rows(path, file, labels)


def column_names(path: Path) -> list[str]:
    """What the columns of a CSV file are called, or the keys of the first object of a JSONL file; in small letters."""
    with _opened(path) as file:
        if path.suffix.lower() == ".jsonl":
            return _keys(next((line for line in file if line.strip()), "{}"))
        with suppress(csv.Error):  # said when the rows are read
            return [name.casefold() for name in _header(file, LABEL_COLUMNS).names]
    return []


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            yield file
    except UnicodeError:
        raise FewshotError(f"{path} is not text in UTF-8.", "Save it as UTF-8.") from None
    except OSError as error:
        raise FewshotError(f"{path} can't be read: {error.strerror}.", "Check its permissions.") from None


def _keys(text: str) -> list[str]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return []  # said when the rows are read
    return [key.casefold() for key in row] if isinstance(row, dict) else []


def _encoding(path: Path) -> str:
    """UTF-8, or the UTF-16 that spreadsheets call "Unicode text", which says so in its first two bytes."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _check_row(path: Path, line: int, where: str, label: str) -> None:
    if not where or not label:
        raise FewshotError(f"{path}, line {line}: the {'label' if where else 'path'} is empty.", "Fill it in.")
    if "\0" in where:
        raise FewshotError(f"{path}, line {line}: a path can't hold a zero byte.", "Correct it.")


def _written(where: str) -> PurePosixPath:
    """A path as it is written in a list, with either kind of slash."""
    return PurePosixPath(where.replace("\\", "/"))


def picture_at(folder: Path, where: str) -> Path:
    """The file that a list in `folder` names; backslashes part folders unless a file is called just so."""
    literal = folder / where
    with suppress(OSError):  # a name that is too long: said when it is read
        return literal if "\\" not in where or literal.exists() else folder / _written(where)
    return literal


class _Header(NamedTuple):
    """The line that names the columns of a CSV file: its number, the names, and what parts the cells."""

    line: int
    names: list[str]
    delimiter: str

    def places(self, labels: Sequence[str]) -> list[int | None]:
        """Where path and label are."""
        names = [name.casefold() for name in self.names]
        wanted = (PATH_COLUMNS, labels)
        return [next((names.index(one) for one in some if one in names), None) for some in wanted]


def _header(file: TextIO, labels: Sequence[str]) -> _Header:
    """The header; what parts cells is what the first line says (sep=;), or else what fits the header best."""
    header = file.readline()
    line, delimiters = 1, DELIMITERS
    if said := _DELIMITER_LINE.fullmatch(header.rstrip("\r\n")):
        delimiters, header, line = said[1], file.readline(), 2

    def parted(delimiter: str) -> _Header:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return _Header(line, [cell.strip() for cell in cells], delimiter)

    return max(map(parted, delimiters), key=lambda one: 2 - one.places(labels).count(None))


def _csv_rows(path: Path, file: TextIO, labels: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """The line number, path and label of each row of a CSV file whose header names both, among other columns.

    Commas, semicolons, tabs or bars part the cells.
    """
    line = 1
    try:
        header = _header(file, labels)
        (line, names, delimiter), (where, what) = header, header.places(labels)
        if where is None or what is None:
            raise FewshotError(
                f"{path}, line {line}: there is no column {'path' if where is None else labels[0]}, "
                f"only {some(names) or 'nothing'}.",
                f"Begin the file with a header line that names the columns: path,{labels[0]}",
            )
        before = line
        rows = csv.reader(file, delimiter=delimiter)
        for cells in rows:
            line = before + rows.line_num
            if not any(cell.strip() for cell in cells):
                continue
            _check_length(path, line, cells, names, max(where, what), delimiter)
            yield line, cells[where].strip(), nfc(cells[what].strip())
    except csv.Error as error:
        raise FewshotError(f"{path}, line {line} or the next: {error}.", "Correct this line.") from None


def _check_length(path: Path, line: int, cells: list[str], names: list[str], needed: int, delimiter: str) -> None:
    """Raises FewshotError for a row without path or label, and for one of more cells than the header, unless empty."""
    if len(cells) <= needed:
        raise FewshotError(f"{path}, line {line}: too few columns.", "Give each line a path and a label.")
    if any(cell.strip() for cell in cells[len(names) :]):
        raise FewshotError(
            f"{path}, line {line}: {len(cells)} cells, and the header names {len(names)} columns.",
            f'Put quotes around a cell that holds {delimiter!r}: "animal{delimiter} sea"',
        )


def _json_rows(path: Path, file: TextIO, labels: Sequence[str], several: bool) -> Iterator[tuple[int, str, str]]:
    """The line number, path and label of each object; numbers are labels, too, but no label is none."""
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FewshotError(f"{path}, line {line}: not JSON: {error}.", _JSON_LINE) from None
        if not isinstance(row, dict):
            raise FewshotError(f"{path}, line {line}: not an object.", _JSON_LINE)
        where, label = (next((row[one] for one in some if one in row), None) for some in (PATH_COLUMNS, labels))
        for what, value in (("path", where), (labels[0], label)):
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                there = any(one in row for one in (PATH_COLUMNS if what == "path" else labels))
                problem = (
                    f"the {what} is {json.dumps(value)}" if there else f"there is no {what!r}, only {some(list(row))}"
                )
                raise FewshotError(f"{path}, line {line}: {problem}.", _JSON_LINE)
        name = _joined(path, line, label) if several and isinstance(label, list) else _text(path, line, "label", label)
        yield line, _text(path, line, "path", where), name if isinstance(name, JoinedLabels) else nfc(name.strip())


def _joined(path: Path, line: int, labels: list[Any]) -> str:
    """The labels of an array, joined by + in order; a single one is just that."""
    names = sorted({nfc(_text(path, line, "label", label).strip()) for label in labels})
    if not names or not all(names) or (len(names) > 1 and any("+" in name for name in names)):
        raise FewshotError(
            f"{path}, line {line}: {json.dumps(labels, ensure_ascii=False)} is no list of labels without a +.",
            'Each line is like {"path": "1.jpg", "label": ["cat", "dog"]}.',
        )
    return names[0] if len(names) == 1 else JoinedLabels("+".join(names))


def _text(path: Path, line: int, what: str, value: Any) -> str:
    """A path, or a label, which may be a number, as text."""
    if isinstance(value, str) or (what == "label" and isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value)
    raise FewshotError(f"{path}, line {line}: the {what} is no text.", _JSON_LINE)
