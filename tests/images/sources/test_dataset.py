"""The same data set from folders, lists, zips and HDF5 files; what is amiss is said, with the name of the file."""

import csv
import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import unicodedata
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.decode import load
from fewshot_cli.images.drawing import CLASSES, draw, write_folder
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.resize import prepare
from fewshot_cli.images.sources import dataset as datasets_module
from fewshot_cli.images.sources import meta_dataset
from fewshot_cli.images.sources.class_folders import nfc
from fewshot_cli.images.sources.dataset import Dataset, read_datasets
from fewshot_cli.images.sources.leftovers import left_over
from fewshot_cli.images.sources.manifests import listed

SHARED = Path(__file__).resolve().parents[3].parent / "shared"
OMNIGLOT = SHARED / "data" / "omniglot" / "omniglot_background_small.zip"
SMALL = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\\\0/.~", exclude_categories=["Cs"]), min_size=1, max_size=8
)
TEXT = TEXT.filter(lambda text: text.strip() and not left_over(text))


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def zipped(path: Path, *names: str, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def png(label: str = "cat", seed: int = 0) -> bytes:
    content = io.BytesIO()
    draw(label, seed, 48).save(content, "PNG")
    return content.getvalue()


def summary(path: Path, split: str | None = None) -> dict[str, tuple[str, ...]]:
    return {dataset.name: dataset.classes for dataset in read_datasets(path, split)}


def only(path: Path, split: str | None = None) -> Dataset:
    (dataset,) = read_datasets(path, split)
    return dataset


def labelled(dataset: Dataset) -> list[tuple[str, str]]:
    return [(dataset.classes[sample.label], Path(sample.stored.name).name) for sample in dataset.samples]


def problem_with(path: Path, split: str | None = None) -> FewshotError:
    with pytest.raises(FewshotError) as caught:
        read_datasets(path, split)
    assert caught.value.hint
    return caught.value


# --- folders -------------------------------------------------------------------------------------------------------


def test_class_folders_are_one_data_set_named_after_their_folder(tmp_path, monkeypatch):
    root = make(tmp_path / "photos", "dog/2.jpg", "dog/10.jpg", "cat/b/1.png", "cat/a.jpg", "logo.png", "notes.txt")
    dataset = only(root)
    assert (dataset.name, dataset.root, dataset.classes) == ("photos", root, ("cat", "dog"))
    assert labelled(dataset) == [("cat", "a.jpg"), ("cat", "1.png"), ("dog", "10.jpg"), ("dog", "2.jpg")]
    assert (dataset.nodes, dataset.superclasses) == ({}, {})
    monkeypatch.chdir(root)
    assert only(Path()).name == "photos"


def test_negatives_are_no_class_of_episodes(tmp_path):
    write_folder(tmp_path / "things", ("cat", "house", "star"), 2, seed=0, size=8)
    (tmp_path / "things" / "cat").rename(tmp_path / "things" / "_unknown")
    (found,) = read_datasets(tmp_path / "things")
    assert found.classes == ("house", "star")
    assert len(found.samples) == 4


def test_a_folder_of_data_sets_names_them_by_their_paths(tmp_path):
    make(tmp_path, "pacs/photo/cat/1.jpg", "pacs/photo/dog/1.jpg", "pacs/sketch/cat/1.jpg", "pacs/sketch/dog/1.jpg")
    make(tmp_path, "birds/owl/1.jpg", "birds/crow/1.jpg", "MANIFEST.csv", "notes/read me.txt", ".git/a/1.jpg")
    zipped(tmp_path / "drawn" / "letters.zip", "a/1.png", "b/1.png")
    zipped(tmp_path / "labels.zip", "labels.csv")
    make(tmp_path, "unlabelled/1.jpg", "list.jsonl")
    assert summary(tmp_path) == {
        "birds": ("crow", "owl"),
        "drawn/letters": ("a", "b"),
        "pacs/photo": ("cat", "dog"),
        "pacs/sketch": ("cat", "dog"),
    }
    assert list(summary(tmp_path / "pacs")) == ["photo", "sketch"]


def test_images_two_levels_down_are_classes_where_they_can_not_be_data_sets(tmp_path):
    make(tmp_path / "one", "cat/photos/1.jpg", "dog/photos/2.jpg")
    assert labelled(only(tmp_path / "one")) == [("cat", "1.jpg"), ("dog", "2.jpg")]
    make(tmp_path / "two", "cat/young/1.jpg", "cat/old/1.jpg", "dog/young/1.jpg", "dog/old/1.jpg")
    assert summary(tmp_path / "two") == {"cat": ("old", "young"), "dog": ("old", "young")}


def test_the_majority_decides_between_classes_and_data_sets(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg", "bird/crow/1.jpg", "bird/owl/1.jpg")
    assert summary(tmp_path) == {tmp_path.name: ("bird", "cat", "dog")}
    make(tmp_path, "fish/cod/1.jpg", "fish/eel/1.jpg")
    error = problem_with(tmp_path)
    assert "as many classes ('cat', 'dog') as data sets ('bird', 'fish')" in error.problem
    zipped(tmp_path / "letters.zip", "a/1.png", "b/1.png")
    assert list(summary(tmp_path)) == ["bird", "fish", "letters"]


def test_a_folder_with_images_and_classes_is_what_its_neighbours_are(tmp_path):
    both = ("1.jpg", "old/2.jpg", "young/3.jpg")
    make(tmp_path / "classes", *(f"cat/{name}" for name in both), "dog/1.jpg")
    assert summary(tmp_path / "classes") == {"classes": ("cat", "dog")}
    make(tmp_path / "sets", *(f"cat/{name}" for name in both), "dog/old/1.jpg", "dog/young/1.jpg")
    assert summary(tmp_path / "sets") == {"cat": ("old", "young"), "dog": ("old", "young")}


def test_a_zip_beside_classes_is_no_data_set(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    zipped(tmp_path / "download.zip", "cat/1.jpg", "dog/1.jpg")
    assert summary(tmp_path) == {tmp_path.name: ("cat", "dog")}


def test_links_in_circles_end(tmp_path):
    make(tmp_path, "a/cat/1.jpg", "a/dog/1.jpg", "b/cat/1.jpg", "b/dog/1.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "up again").symlink_to(tmp_path)
    (tmp_path / "b" / "other").symlink_to(tmp_path / "b")
    assert summary(tmp_path) == {"a": ("cat", "dog"), "b": ("cat", "dog")}


def test_nothing_to_be_found(tmp_path):
    assert "Expected: a folder with one sub-folder per class" in problem_with(make(tmp_path / "a", "b/notes.txt")).hint
    zipped(tmp_path / "useless" / "labels.zip", "labels.csv")
    assert "holds no data set" in problem_with(tmp_path / "useless").problem
    assert "There is no" in problem_with(tmp_path / "missing").problem
    assert "is no data set" in problem_with(make(tmp_path, "a.txt") / "a.txt").problem
    assert "no labels" in problem_with(make(tmp_path / "loose", "1.jpg", "2.jpg")).problem
    assert "single class, 'cat'" in problem_with(make(tmp_path / "single", "cat/1.jpg")).problem


def test_two_data_sets_of_one_name(tmp_path):
    make(tmp_path, "a/cat/1.jpg", "a/dog/1.jpg", "b/cat/1.jpg", "b/dog/1.jpg")
    zipped(tmp_path / "a.zip", "cat/1.jpg", "dog/1.jpg")
    assert "two data sets called 'a'" in problem_with(tmp_path).problem


def test_stored_files_are_the_files(tmp_path):
    write_folder(tmp_path / "drawn", ["cat", "cup"], per_class=2, seed=0)
    for sample in only(tmp_path / "drawn").samples:
        path = Path(sample.stored.name)
        assert sample.stored.content_hash() == hashlib.sha256(path.read_bytes()).hexdigest()
        assert np.array_equal(sample.stored.load(SMALL), load(path, SMALL))


# --- drawn ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_drawn_pictures_need_no_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = only(Path("drawn"))
    assert (dataset.name, dataset.classes, len(dataset.samples)) == ("drawn", tuple(sorted(CLASSES)), 20 * len(CLASSES))
    some = dataset.samples[45]
    label = dataset.classes[some.label]
    assert some.stored.name == f"drawn: {label} 5"
    assert np.array_equal(some.stored.load(SMALL), prepare(draw(label, 5), SMALL))
    hashes = {sample.stored.content_hash() for sample in dataset.samples[:60]}
    assert hashes == {sample.stored.content_hash() for sample in only(Path("drawn")).samples[:60]}
    assert len(hashes) == 60
    make(tmp_path / "drawn", "a/1.jpg", "b/1.jpg")
    assert only(Path("drawn")).classes == ("a", "b")


# --- lists ---------------------------------------------------------------------------------------------------------


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nb/2.jpg,cat\nb/10.jpg,cat\nc.jpg,7\n",
        "\ufefflabel,path\r\n7,c.jpg\r\ncat,b/2.jpg\r\n\r\ncat,b/10.jpg\r\n",
        "id;Filename; Class \n1;b/2.jpg;cat\n2;b/10.jpg;cat\n3;c.jpg;7\n",
        "image\tclass_name\nb/2.jpg\tcat\nb/10.jpg\tcat\nc.jpg\t7\nc.jpg\t7\n",
        'label,path\n"cat","b/2.jpg"\n"cat",b/10.jpg\n7,c.jpg',
        "sep=;\r\npath;label\r\nb/2.jpg;cat\r\nb/10.jpg;cat\r\nc.jpg;7\r\n",
        '\ufeff"sep=;"\npath;label\nb/2.jpg;cat\nb/10.jpg;cat\nc.jpg;7\n',
        "sep=,\npath,label\nb/2.jpg,cat\nb/10.jpg,cat\nc.jpg,7\n",
        "path,label\nb\\2.jpg,cat\nb\\10.jpg,cat\nc.jpg,7\n",
        "path,label\nb/2.jpg,cat,\nb/10.jpg,cat,,\n,\nc.jpg,7\n",
        "path,label\nb/2.jpg,cat\nb/10.jpg,cat\nc.jpg,7\nb/@eaDir/2.jpg/SYNO.jpg,cat\nb/._2.jpg,cat\n",
    ],
)
def test_a_csv_list(tmp_path, text):
    path = written(tmp_path / "lists" / "animals.csv", text)
    dataset = only(path)
    assert (dataset.name, dataset.root, dataset.classes) == ("animals", path, ("7", "cat"))
    assert [(sample.stored.name, sample.label) for sample in dataset.samples] == [
        (str(tmp_path / "lists" / "c.jpg"), 0),
        (str(tmp_path / "lists" / "b" / "10.jpg"), 1),
        (str(tmp_path / "lists" / "b" / "2.jpg"), 1),
    ]


def test_a_csv_cell_may_hold_the_delimiter_a_line_break_and_any_letter(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Äpfel, grün")
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerows([["path", "label"], ["a, b.jpg", decomposed], ["c.jpg", "two\nlines"]])
    dataset = only(tmp_path / "a.csv")
    assert dataset.classes == ("two\nlines", unicodedata.normalize("NFC", decomposed))
    assert dataset.samples[1].stored.name == str(tmp_path / "a, b.jpg")


def test_a_json_lines_list(tmp_path):
    lines = [
        '{"path": "a.jpg", "label": 3, "more": []}',
        "",
        '{"label": "x", "path": "/b.jpg"}',
        '{"path": "c", "label": 0}',
    ]
    dataset = only(written(tmp_path / "a.jsonl", "\n".join(lines)))
    assert dataset.classes == ("0", "3", "x")
    assert [sample.stored.name for sample in dataset.samples] == [
        str(tmp_path / "c"),
        str(tmp_path / "a.jpg"),
        "/b.jpg",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: there is no column path"),
        ("path,kind\na.jpg,cat\n", "no column label, only 'path', 'kind'"),
        ("where;label\na.jpg;cat\n", "line 1: there is no column path"),
        ("a.jpg,cat\nb.jpg,dog\n", "only 'a.jpg', 'cat'"),
        ("path,label\na.jpg,cat\nb.jpg\n", "line 3: too few columns"),
        ("path,label\na.jpg,\n", "line 2: the label is empty"),
        ("path,label\n\n ,cat\n", "line 3: the path is empty"),
        ("path,label\na\0.jpg,cat\n", "line 2: a path can't hold a zero byte"),
        ("path,label\na.jpg,cat\n" + "b" * 200_000 + ",cat\n", "line 2 or the next: field larger"),
        ("b" * 200_000, "line 1 or the next: field larger"),
        ("path,label\na.jpg,cat\nb.jpg,dog\na.jpg,dog\n", "line 4: a.jpg is labelled 'dog' here and 'cat' before"),
        ("path,label\na.jpg,cat\n", "has a single class"),
        ("path,label\n", "has no class"),
        ("path,label\na.jpg,cat\nb.jpg,animal, sea\n", "line 3: 3 cells, and the header names 2 columns"),
        ("sep=;\npath;label\na.jpg;cat\nb.jpg\n", "line 4: too few columns"),
        ("sep=;\nwhere;label\na.jpg;cat\n", "line 2: there is no column path"),
    ],
)
def test_a_wrong_csv_list(tmp_path, text, problem):
    error = problem_with(written(tmp_path / "a.csv", text))
    assert problem in error.problem
    assert "a.csv" in error.problem or "class" in problem


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ('{"path": "a.jpg", "lable": "cat"}', "line 2: there is no 'label', only 'path', 'lable'"),
        ('{"label": "cat"}', "line 2: there is no 'path'"),
        ('{"path": 3, "label": "cat"}', "line 2: the path is no text"),
        ('{"path": "a.jpg", "label": ["cat"]}', "line 2: the label is no text"),
        ('{"path": "a.jpg", "label": true}', "line 2: the label is no text"),
        ('{"path": "a.jpg", "label": ""}', "line 2: the label is empty"),
        ('{"path": "a.jpg", "label": NaN}', "line 2: the label is NaN"),
        ('{"path": "a.jpg", "label": -Infinity}', "line 2: the label is -Infinity"),
        ('{"path": "a.jpg", "label": null}', "line 2: the label is null"),
        ('{"path": null, "label": "cat"}', "line 2: the path is null"),
    ],
)
def test_a_wrong_json_lines_list(tmp_path, line, problem):
    text = '{"path": "z.jpg", "label": "dog"}\n' + line
    assert problem in problem_with(written(tmp_path / "a.jsonl", text)).problem


def test_a_list_as_spreadsheets_write_it(tmp_path):
    """Unicode text: tabs, in UTF-16. A file of backslashes is that file where there is one."""
    make(tmp_path, "b\\2.jpg")
    for name, encoding in (("a.tsv", "utf-8"), ("b.csv", "utf-16"), ("c.csv", "utf-8-sig")):
        path = written(tmp_path / name, "path\tlabel\nb\\2.jpg\tÄpfel\na\\2.jpg\tcat\n", encoding)
        assert only(path).classes == ("cat", "Äpfel")
        names = [sample.stored.name for sample in only(path).samples]
        assert names == [str(tmp_path / "a" / "2.jpg"), str(tmp_path / "b\\2.jpg")]


@pytest.mark.slow
@given(
    rows=st.lists(st.tuples(TEXT, TEXT), min_size=2, max_size=6, unique_by=lambda row: row[0].strip()),
    dialect=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_a_program_writes_as_csv_or_json_is_what_is_read(rows, dialect, quoting):
    expected = [(nfc(label.strip()), Path(where.strip())) for where, label in rows]
    with TemporaryDirectory() as folder:
        for suffix in ("csv", "jsonl"):
            path = Path(folder) / f"a.{suffix}"
            with path.open("w", newline="", encoding="utf-8") as file:
                if suffix == "csv":
                    csv.writer(file, delimiter=dialect, quoting=quoting).writerows([("path", "label"), *rows])
                else:
                    file.writelines(json.dumps({"path": where, "label": label}) + "\n" for where, label in rows)
            found = listed(path)
            read = [
                (label, Path(Path(one.name).name.strip())) for label in found.classes for one in found.pictures(label)
            ]
            assert sorted(read) == sorted(expected)


@given(
    content=st.binary(max_size=200), start=st.sampled_from([b"", b"path,label\n", b"sep=;\n", b"\xff\xfe", b'{"path":'])
)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_any_bytes_are_a_list_or_a_sentence(suffix, start, content):
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        path.write_bytes(start + content)
        try:
            assert all(listed(path).classes)
        except FewshotError as error:
            assert error.hint


def test_a_list_that_is_no_text(tmp_path):
    assert "UTF-8" in problem_with(written(tmp_path / "a.csv", "path,label\né.jpg,1\n", "latin-1")).problem


# --- zips ----------------------------------------------------------------------------------------------------------


def test_a_zip_of_class_folders(tmp_path):
    names = ["top/dog/2.png", "top/cat/b.PNG", "top/cat/a.jpg", "top/cat/notes.txt", "top/cat/.hidden.png"]
    path = zipped(tmp_path / "Pets.zip", *names, "__MACOSX/top/cat/._a.jpg", "top/cat/", "top/.git/1.png", "loose.png")
    dataset = only(path)
    assert (dataset.name, dataset.root, dataset.classes) == ("Pets", path, ("cat", "dog"))
    assert [sample.stored.name for sample in dataset.samples] == [
        f"{path}: top/cat/a.jpg",
        f"{path}: top/cat/b.PNG",
        f"{path}: top/cat/notes.txt",  # reported as no image, as in a folder
        f"{path}: top/dog/2.png",
    ]
    assert dataset.superclasses == {}


def test_data_sets_in_a_zip_are_superclasses(tmp_path):
    names = ("Latin/a", "Latin/b", "Greek/a", "Greek/c/deep", "x/y/z", "x/y/w")
    path = zipped(tmp_path / "a.zip", *(f"all/{name}/1.png" for name in names))
    dataset = only(path)
    assert dataset.classes == ("Greek/a", "Greek/c", "Latin/a", "Latin/b", "x/y/w", "x/y/z")
    assert dataset.superclasses == {"Greek": (0, 1), "Latin": (2, 3), "x/y": (4, 5)}
    written(tmp_path / "a.superclass.json", '{"mine": ["Latin/b", "Greek/a"]}')
    assert only(path).superclasses == {"mine": (0, 3)}
    written(tmp_path / "a.superclass.json", "{}")
    assert only(path).superclasses == {}
    alone = zipped(tmp_path / "c.zip", "all/Latin/a/1.png", "all/Latin/b/1.png")
    assert (only(alone).classes, only(alone).superclasses) == (("a", "b"), {})


SHAPES = [
    ("cat/1.jpg", "cat/close/2.jpg", "dog/1.jpg"),
    ("cover.jpg", "cat/1.jpg", "dog/1.jpg"),
    ("cat/photos/1.jpg", "dog/photos/2.jpg"),
    ("cat/1.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "dog/1.jpg", "@eaDir/dog/1.jpg", "#recycle/old/1.jpg"),
    ("cat/1.jpg", "dog/1.jpg", "bird/crow/1.jpg", "bird/owl/1.jpg"),
    ("train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg", "val/dog/1.jpg"),
    ("data/train/cat/1.jpg", "data/train/dog/1.jpg", "data/val/cat/1.jpg", "data/val/dog/1.jpg"),
    ("cat/1.jpg", "dog/1.jpg", "fish/cod/1.jpg", "fish/eel/1.jpg", "bird/crow/1.jpg", "bird/owl/1.jpg"),
    ("cat/1.jpg", "cat/old/1.jpg", "cat/young/1.jpg", "dog/1.jpg"),
    ("cat/1.jpg", "cat/notes.txt", "cat/x.fewshot", "dog/1.jpg", "dog/1.csv"),
    ("all/cat/1.jpg",),
    ("1.jpg", "2.jpg"),
]


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize("names", SHAPES, ids=lambda names: names[0])
def test_a_zip_is_read_as_its_folder(tmp_path, names, split):
    """The same classes with the same pictures, or neither of them."""

    def seen(path):
        try:
            dataset = only(path, split)
        except FewshotError as error:
            known = [word for word in ("parts of a data set", "as many classes") if word in error.problem]
            return known or "refused"
        return labelled(dataset)

    make(tmp_path / "a", *names)
    zipped(tmp_path / "a.zip", *names)
    zipped(tmp_path / "wrapped" / "a.zip", *(f"photos/{name}" for name in names))
    assert seen(tmp_path / "a") == seen(tmp_path / "a.zip") == seen(tmp_path / "wrapped" / "a.zip")


def test_cases_of_the_shared_folder():
    cases = SHARED / "cases"
    if not cases.is_dir():
        pytest.skip("needs ../shared/cases")
    for name, count in [("synology_eaDir", 18), ("class_with_subfolder", 18), ("stray_cover_in_top_folder", 18)]:
        dataset = only(cases / f"zip_{name}.zip")
        assert dataset.classes == ("dolphin", "sunflower", "watch"), name
        assert len(dataset.samples) == count, name
    assert "parts of a data set (train, val)" in problem_with(cases / "zip_train_val.zip").problem
    assert len(only(cases / "zip_train_val.zip", "train").samples) == 12
    error = problem_with(cases / "csv_unquoted_comma_merges_labels.csv")
    assert "line 2: 3 cells, and the header names 2" in error.problem


def test_a_zip_as_windows_may_write_it(tmp_path):
    assert only(zipped(tmp_path / "a.zip", "x\\cat\\1.png", "x\\dog\\1.png")).classes == ("cat", "dog")


def test_a_zipped_picture_is_the_file_that_was_zipped(tmp_path):
    write_folder(tmp_path / "pets", ["cat", "cup"], per_class=3, seed=0)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in (tmp_path / "pets").glob("*/*.jpg"):
            archive.write(file, file.relative_to(tmp_path))
    before = set(tmp_path.rglob("*"))
    for zipped_one, one in zip(only(tmp_path / "pets.zip").samples, only(tmp_path / "pets").samples, strict=True):
        assert zipped_one.label == one.label
        assert zipped_one.stored.content_hash() == one.stored.content_hash()
        assert np.array_equal(zipped_one.stored.load(SMALL), one.stored.load(SMALL))
    assert set(tmp_path.rglob("*")) == before  # nothing was unpacked


def test_the_last_of_two_members_with_one_name_counts(tmp_path):
    path = zipped(tmp_path / "a.zip", "cat/1.png", "dog/1.png")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("cat/1.png", png())
    cat, _ = only(path).samples
    assert cat.stored.content_hash() == hashlib.sha256(png()).hexdigest()


def test_damaged_zips(tmp_path):
    assert "not a zip file" in problem_with(written(tmp_path / "a.zip", "no")).problem
    whole = zipped(tmp_path / "b.zip", "cat/1.png", "dog/1.png").read_bytes()
    (tmp_path / "c.zip").write_bytes(whole[:-30])
    assert "not a zip file" in problem_with(tmp_path / "c.zip").problem
    assert "no images in class folders" in problem_with(zipped(tmp_path / "d.zip", "cat/1.txt", "1.png")).problem
    assert "single class" in problem_with(zipped(tmp_path / "e.zip", "cat/1.png")).problem


def test_a_damaged_member_is_an_image_error_and_the_others_are_read(tmp_path):
    path = zipped(tmp_path / "a.zip", "cat/1.png", "dog/1.png", content=png())
    content = bytearray(path.read_bytes())
    content[content.index(b"cat/1.png") + 60] ^= 255
    path.write_bytes(content)
    cat, dog = only(path).samples
    for read in (cat.stored.content_hash, lambda: cat.stored.load(SMALL)):
        with pytest.raises(ImageError, match="damaged inside the zip"):
            read()
    assert dog.stored.load(SMALL).shape == (3, 32, 32)


def test_an_encrypted_zip_says_so(tmp_path):
    path = zipped(tmp_path / "a.zip", "cat/1.png", "dog/1.png")
    content = bytearray(path.read_bytes())
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = content.index(start)
        content[place + flags] |= 1
    path.write_bytes(content)
    error = problem_with(path)
    assert "is encrypted: cat/1.png" in error.problem
    assert "without a password" in error.hint


def test_other_compression_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        for name in ("cat/1.png", "dog/1.png"):
            archive.writestr(name, png())
    with pytest.raises(ImageError, match="compressed in a way"):
        only(tmp_path / "a.zip").samples[0].stored.load(SMALL)


@pytest.mark.slow
def test_a_bomb_does_not_go_off(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("cat/1.png", "w") as member:
        for _ in range(501):
            member.write(bytes(1_000_000))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dog/1.png", png())
    assert path.stat().st_size < 1_000_000
    for sample in only(path).samples[:1]:
        for read in (sample.stored.content_hash, lambda one=sample: one.stored.load(SMALL)):
            with pytest.raises(ImageError, match="unzips to 501 MB") as caught:
                read()
            assert caught.value.kind == "too-large"

    content = bytearray(path.read_bytes())  # now the zip lies about its size
    for start, size in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        content[content.index(start) + size :][:4] = struct.pack("<I", 1000)
        place = content.index(start) + size
        content[place : place + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    with pytest.raises(ImageError):
        only(path).samples[0].stored.content_hash()


@pytest.mark.slow
def test_all_of_omniglot_from_two_threads():
    if not OMNIGLOT.is_file():
        pytest.skip("needs ../shared/data")
    dataset = only(OMNIGLOT)
    assert (dataset.name, len(dataset.classes), len(dataset.samples)) == ("omniglot_background_small", 242, 4840)
    assert dataset.classes[0] == "Balinese/character01"
    assert len(dataset.superclasses) == 8
    assert sorted(one for some in dataset.superclasses.values() for one in some) == list(range(242))
    with zipfile.ZipFile(OMNIGLOT) as archive:
        expected = [
            hashlib.sha256(archive.read(sample.stored.name.split(": ")[1])).hexdigest() for sample in dataset.samples
        ]
    with ThreadPoolExecutor(2) as pool:
        hashes = list(pool.map(lambda sample: sample.stored.content_hash(), dataset.samples))
        pictures = list(pool.map(lambda sample: sample.stored.load(SMALL), dataset.samples))
    assert hashes == expected
    assert all(
        np.array_equal(sample.stored.load(SMALL), one) for sample, one in zip(dataset.samples, pictures, strict=True)
    )


@pytest.mark.slow
def test_the_shared_data_sets():
    if not OMNIGLOT.is_file():
        pytest.skip("needs ../shared/data")
    found = {dataset.name: dataset for dataset in read_datasets(SHARED / "data")}
    assert {"caltech101", "cifar10", "dtd10", "omniglot/omniglot_background_small", "pacs/photo", "pacs/sketch"} <= set(
        found
    )
    assert "imagenet_sample100" not in found
    assert {name: len(found[name].samples) for name in ("caltech101", "pacs/photo")} == {
        "caltech101": 2970,
        "pacs/photo": 350,
    }


# --- files beside it -----------------------------------------------------------------------------------------------


@pytest.fixture
def animals(tmp_path) -> Path:
    return make(tmp_path / "animals", *(f"{name}/1.jpg" for name in ("cat", "cod", "dog", "eel", "owl")))


def test_a_split_keeps_its_classes(animals):
    written(animals / "splits.json", '{"train": ["owl", "dog"], "test": ["eel", "cat", "cod"], "one": ["cat"]}')
    assert only(animals).classes == ("cat", "cod", "dog", "eel", "owl")
    assert labelled(only(animals, "train")) == [("dog", "1.jpg"), ("owl", "1.jpg")]
    assert only(animals, "test").classes == ("cat", "cod", "eel")
    assert [sample.label for sample in only(animals, "test").samples] == [0, 1, 2]
    error = problem_with(animals, "val")
    assert "no split 'val'" in error.problem
    assert "train, test, one" in error.hint
    assert "The split 'one' of animals has a single class" in problem_with(animals, "one").problem


def test_a_split_of_what_has_none(animals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert f"there is no {animals / 'splits.json'}" in problem_with(animals, "test").problem
    zipped(tmp_path / "a.zip", "cat/1.png", "dog/1.png", "owl/1.png")
    assert f"there is no {tmp_path / 'a.splits.json'}" in problem_with(tmp_path / "a.zip", "test").problem
    written(tmp_path / "a.splits.json", '{"test": ["cat", "owl"]}')
    assert only(tmp_path / "a.zip", "test").classes == ("cat", "owl")
    assert "drawn has no split 'test'" in problem_with(Path("drawn"), "test").problem


def test_groups_of_classes(animals):
    written(animals / "splits.json", '{"test": ["eel", "dog", "cod"]}')
    written(
        animals / "hierarchy.json",
        '{"pets": ["dog", "cat"], "all": ["cat", "dog", "eel", "cod", "owl"], "birds": ["owl"]}',
    )
    written(animals / "superclass.json", '{"fish": ["eel", "cod"], "mammals": ["cat", "dog"]}')
    assert only(animals).nodes == {"all": (0, 1, 2, 3, 4), "birds": (4,), "pets": (0, 2)}
    assert only(animals).superclasses == {"fish": (1, 3), "mammals": (0, 2)}
    assert only(animals, "test").nodes == {"all": (0, 1, 2), "pets": (1,)}
    assert only(animals, "test").superclasses == {"fish": (0, 2), "mammals": (1,)}


@pytest.mark.parametrize("what", ["splits", "hierarchy", "superclass"])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"test": ["cat", "dog", "bat", "ant"]}', "animals has not: 'ant', 'bat'"),
        ('{"test": "cat"}', "'test' is not a list of class names"),
        ('{"test": [1]}', "'test' is not a list of class names"),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_wrong_files_beside_it(animals, what, text, problem):
    path = written(animals / f"{what}.json", text)
    error = problem_with(animals, "test" if what == "splits" else None)
    assert problem in error.problem
    assert str(path) in error.problem


def test_folders_called_train_and_test_are_splits(tmp_path):
    make(tmp_path / "mini", "train/cat/1.jpg", "train/dog/1.jpg", "test/eel/1.jpg", "test/owl/1.jpg", "train.csv")
    assert summary(tmp_path / "mini", "test") == {"mini": ("eel", "owl")}
    assert summary(tmp_path, "train") == {"mini": ("cat", "dog")}
    assert "parts of a data set (test, train)" in problem_with(tmp_path / "mini").problem
    error = problem_with(tmp_path / "mini", "val")
    assert "no split 'val'" in error.problem
    assert "test, train" in error.hint


# --- Meta-Dataset --------------------------------------------------------------------------------------------------


def h5_file(path: Path, count: int, seed: int) -> list[np.ndarray]:
    """An HDF5 file as P>M>F's script writes it."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8) for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for i, pixels in enumerate(pictures):
            group = file.create_group(str(i))
            group.create_dataset("image", data=pixels)
            group.create_dataset("label", data=np.array(seed))
            group.create_dataset("id", data=np.array(i))
    return pictures


def specified(root: Path, spec: dict, counts: dict[int, int]) -> Path:
    for number, count in counts.items():
        h5_file(root / f"{number}.h5", count, number)
    return written(
        root / "dataset_spec.json", json.dumps({"path": "/gone", "file_pattern": "{}.tfrecords", **spec})
    ).parent


@pytest.fixture
def textures(tmp_path) -> Path:
    """Seven classes of 1, 2, ... pictures; two of them with the same name."""
    counts = {number: number + 1 for number in range(7)}
    spec = {
        "__class__": "DatasetSpecification",
        "name": "dtd",
        "classes_per_split": {"TRAIN": 2, "VALID": 2, "TEST": 3},
        "images_per_class": {str(number): count for number, count in counts.items()},
        "class_names": dict(zip(map(str, counts), ["g", "f", "e", "d", "c", "d", "a"], strict=True)),
    }
    return specified(tmp_path / "md" / "dtd", spec, counts)


def test_a_plain_specification(textures):
    dataset = only(textures)
    assert (dataset.name, dataset.root) == ("dtd", textures)
    assert dataset.classes == ("a", "c", "d (5)")
    assert [sum(sample.label == label for sample in dataset.samples) for label in range(3)] == [7, 5, 6]
    assert dataset.samples[3].stored.name == f"{textures / '6.h5'}: image 3"
    assert only(textures, "train").classes == ("f", "g")
    assert only(textures, "valid").classes == ("d (3)", "e")
    assert "Choose one of: train, valid, test." in problem_with(textures, "val").hint
    assert (dataset.nodes, dataset.superclasses) == ({}, {})


def test_pictures_in_h5_files_are_their_arrays(textures):
    expected = h5_file(textures / "6.h5", 7, 6)
    samples = only(textures).samples[:7]
    with ThreadPoolExecutor(3) as pool:
        loaded = list(pool.map(lambda sample: sample.stored.load(SMALL), samples * 5))
    for sample, pixels, one in zip(samples * 5, expected * 5, loaded, strict=True):
        assert np.array_equal(one, prepare(Image.fromarray(pixels), SMALL))
        assert sample.stored.content_hash() == hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    assert len({sample.stored.content_hash() for sample in samples}) == 7


def test_a_folder_of_meta_data_sets(textures):
    make(textures.parent, "birds/owl/1.jpg", "birds/crow/1.jpg")
    assert list(summary(textures.parent)) == ["birds", "dtd"]


def test_a_specification_of_two_levels(tmp_path):
    spec = {
        "__class__": "BiLevelDatasetSpecification",
        "name": "omniglot",
        "superclasses_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 2},
        "classes_per_superclass": {"0": 2, "1": 3, "2": 1},
        "images_per_class": {str(number): 2 for number in range(6)},
        "superclass_names": {"0": "Latin", "1": "Greek", "2": "Korean"},
        "class_names": {"0": "L1", "1": "L2", "2": "G3", "3": "G1", "4": "G2", "5": "K1"},
    }
    root = specified(tmp_path / "omniglot", spec, dict.fromkeys(range(6), 2))
    dataset = only(root)
    assert dataset.classes == ("G1", "G2", "G3", "K1")
    assert dataset.superclasses == {"Greek": (0, 1, 2), "Korean": (3,)}
    assert [Path(sample.stored.name.split(":")[0]).name for sample in dataset.samples[::2]] == [
        "3.h5",
        "4.h5",
        "2.h5",
        "5.h5",
    ]
    assert only(root, "train").superclasses == {"Latin": (0, 1)}
    assert "has no class" in problem_with(root, "valid").problem


def node(name: str, *children: str) -> dict:
    return {"wn_id": name, "words": f"{name} in words", "children_ids": list(children), "parents_ids": []}


def test_a_hierarchical_specification(tmp_path):
    spec = {
        "__class__": "HierarchicalDatasetSpecification",
        "name": "ilsvrc_2012",
        "split_subgraphs": {
            "TRAIN": [node("top", "n0", "n1"), node("n0"), node("n1")],
            "VALID": [],
            "TEST": [
                node("top", "pets", "n4"),
                node("pets", "n2", "n3"),
                node("wild", "n3", "n4"),
                *map(node, ("n2", "n3", "n4")),
            ],
        },
        "images_per_class": {
            "TRAIN": {"top": 3, "n0": 2, "n1": 1},
            "VALID": {},
            "TEST": {"top": 6, "pets": 3, "wild": 5, "n2": 1, "n3": 2, "n4": 3},
        },
        "class_names": {str(number): f"n{number}" for number in range(5)},
    }
    root = specified(tmp_path / "ilsvrc_2012", spec, {0: 2, 1: 1, 2: 1, 3: 2, 4: 3})
    dataset = only(root)
    assert dataset.classes == ("n2", "n3", "n4")
    assert [sample.label for sample in dataset.samples] == [0, 1, 1, 2, 2, 2]
    assert dataset.nodes == {"pets": (0, 1), "top": (0, 1, 2), "wild": (1, 2)}
    assert (only(root, "train").classes, only(root, "train").nodes) == (("n0", "n1"), {"top": (0, 1)})


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": None},
        {"class_names": {"zero": "a"}},
        {"class_names": {"0": "a"}},
        {"images_per_class": {}},
        {"classes_per_split": {"TRAIN": 1}},
        {"split_subgraphs": {"TRAIN": [node("a", "b"), node("b", "a")], "VALID": [], "TEST": []}},
        {"superclasses_per_split": {"TRAIN": 1, "VALID": 0, "TEST": 0}},
    ],
)
def test_a_wrong_specification(textures, change):
    path = textures / "dataset_spec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    error = problem_with(textures)
    assert str(path) in error.problem
    assert "specification" in error.problem


def test_a_specification_that_is_no_json(textures):
    (textures / "dataset_spec.json").write_text("{")
    assert "not JSON" in problem_with(textures).problem


def test_a_pickled_specification_is_not_read(tmp_path):
    root = make(tmp_path / "old", "dataset_spec.pkl", "0.h5")
    error = problem_with(root)
    assert "could run code" in error.problem
    assert "dataset_spec.json" in error.hint


def test_an_h5_file_is_opened_once(textures, monkeypatch):
    h5py = pytest.importorskip("h5py")
    opened = []
    original = h5py.File
    monkeypatch.setattr(h5py, "File", lambda path, mode: opened.append(path) or original(path, mode))
    expected = h5_file(textures / "6.h5", 7, 6)
    opened.clear()
    samples = [sample.stored for sample in only(textures).samples if sample.stored.path.name == "6.h5"]
    for _ in range(2):
        for sample, pixels in zip(samples, expected, strict=True):
            assert np.array_equal(sample.pixels(), pixels)
    assert opened == [textures / "6.h5"]


def test_no_more_than_so_many_h5_files_stay_open(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.setattr(meta_dataset, "MOST_OPEN", 2)
    files = meta_dataset._OpenFiles()
    for number in range(4):
        h5_file(tmp_path / f"{number}.h5", 1, number)
    handles = [files.file(tmp_path / f"{number}.h5") for number in (0, 1, 2, 3, 2)]
    assert [bool(handle) for handle in handles] == [False, False, True, True, True]


def test_a_missing_h5_file(textures):
    (textures / "5.h5").unlink()
    assert "has no 5.h5, where its dataset_spec.json puts the class 'd (5)'" in problem_with(textures).problem
    assert only(textures, "train").classes == ("f", "g")


def test_damaged_h5_files_are_image_errors(textures):
    h5py = pytest.importorskip("h5py")
    (textures / "6.h5").write_bytes((textures / "6.h5").read_bytes()[:900])
    h5_file(textures / "4.h5", 2, 4)
    with h5py.File(textures / "5.h5", "w") as file:
        file["0/image"] = np.zeros((4, 4, 3))
        file["1/image"] = np.zeros((4, 4), dtype=np.uint8)
        file.create_dataset("2/image", (100_000, 100_000, 3), dtype=np.uint8, chunks=True)
    samples = {sample.stored.name.rpartition("/")[2]: sample.stored for sample in only(textures).samples}
    for name, reason in [
        ("6.h5: image 0", "damaged"),
        ("4.h5: image 3", "no image 3"),
        ("5.h5: image 0", "float64"),
        ("5.h5: image 1", "not RGB"),
        ("5.h5: image 2", "100000"),
    ]:
        with pytest.raises(ImageError, match=reason):
            samples[name].load(SMALL)


def test_without_h5py_the_error_says_how_to_get_it(textures, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "fewshot-cli[hdf5]" in problem_with(textures).hint


def test_reading_data_sets_needs_neither_torch_nor_h5py(tmp_path):
    program = (
        "import sys; from pathlib import Path; from fewshot_cli.images.sources.dataset import read_datasets\n"
        "read_datasets(Path('drawn')); print({'torch', 'timm', 'h5py'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONPATH": str(Path(datasets_module.__file__).parents[3])}
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment)
    assert answer.stdout.strip() == "set()"
