"""One sub-folder per class, whatever else lies around."""

import os
import unicodedata
from pathlib import Path

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import find_images, read_folder


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def listed(root: Path) -> list[tuple[str, str]]:
    return [(item.label, item.path.relative_to(root).as_posix()) for item in read_folder(root).items]


def test_classes_and_items_are_sorted_and_nested_folders_belong_to_their_class(tmp_path):
    make(tmp_path, "dog/2.jpg", "dog/10.jpg", "cat/b/deep/1.PNG", "cat/a.jpg", "cat/notes.txt")
    assert read_folder(tmp_path).classes == ("cat", "dog")
    assert listed(tmp_path) == [
        ("cat", "cat/a.jpg"),
        ("cat", "cat/b/deep/1.PNG"),
        ("cat", "cat/notes.txt"),
        ("dog", "dog/10.jpg"),
        ("dog", "dog/2.jpg"),
    ]


def test_hidden_files_and_litter_are_ignored(tmp_path):
    make(tmp_path, "a/1.jpg", "a/.DS_Store", "a/._1.jpg", "a/Thumbs.db", "a/desktop.ini", "a/.git/x.jpg", "b/1.jpg")
    make(tmp_path, ".cache/1.jpg", "__MACOSX/a/1.jpg", "README.md", "loose.JPG")
    folder = read_folder(tmp_path)
    assert folder.classes == ("a", "b")
    assert [item.path.name for item in folder.items] == ["1.jpg", "1.jpg"]
    assert folder.loose == (tmp_path / "loose.JPG",)


def test_names_in_other_spellings_of_unicode_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "äpfel grün") for form in ("NFC", "NFD"))
    make(tmp_path, f"{composed}/1.jpg", f"{decomposed}/2.jpg", "חתול/1.jpg")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("this file system makes no difference between them")
    folder = read_folder(tmp_path)
    assert folder.classes == (composed, "חתול")
    assert [item.path.name for item in folder.items if item.label == composed] == ["1.jpg", "2.jpg"]


def test_links_are_followed_and_circles_do_no_harm(tmp_path):
    root = make(tmp_path / "root", "a/1.jpg", "b/1.jpg", "b/deep/2.jpg")
    elsewhere = make(tmp_path / "elsewhere", "3.jpg", "more/4.jpg")
    (root / "c").symlink_to(elsewhere)
    (root / "a" / "link.jpg").symlink_to(elsewhere / "3.jpg")
    (root / "a" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (root / "b" / "deep" / "up").symlink_to(root / "b")
    (root / "b" / "root").symlink_to(root)
    (root / "b" / "above").symlink_to(tmp_path)
    (root / "round").symlink_to(root)
    assert listed(root) == [
        ("a", "a/1.jpg"),
        ("a", "a/broken.jpg"),
        ("a", "a/link.jpg"),
        ("b", "b/1.jpg"),
        ("b", "b/deep/2.jpg"),
        ("c", "c/3.jpg"),
        ("c", "c/more/4.jpg"),
    ]


def problem_with(root: Path) -> FewshotError:
    with pytest.raises(FewshotError) as caught:
        read_folder(root)
    assert caught.value.hint
    return caught.value


def test_no_folder(tmp_path):
    assert "no folder" in problem_with(tmp_path / "missing").problem
    make(tmp_path, "file.jpg")
    assert "is a file" in problem_with(tmp_path / "file.jpg").problem


def test_images_without_class_folders(tmp_path):
    make(tmp_path, "one.jpg", "two.jpg")
    error = problem_with(tmp_path)
    assert "one.jpg" in error.problem
    assert "sub-folder per class" in error.hint


def test_nothing_at_all(tmp_path):
    assert "no sub-folders" in problem_with(tmp_path).problem


def test_a_single_class(tmp_path):
    assert "'cat'" in problem_with(make(tmp_path, "cat/1.jpg")).problem


def test_a_split_data_set(tmp_path):
    make(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "Val/cat/1.jpg")
    assert str(tmp_path / "Val") in problem_with(tmp_path).hint
    make(tmp_path, "bus/1.jpg")  # now they are vehicles
    assert read_folder(tmp_path).classes == ("Val", "bus", "train")


def test_an_empty_class(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/.hidden")
    assert "'dog'" in problem_with(tmp_path).problem
    assert read_folder(tmp_path, allow_empty=True).classes == ("cat", "dog")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path):
    make(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "dog").chmod(0)
    try:
        assert "can't be read" in problem_with(tmp_path).problem
    finally:
        (tmp_path / "dog").chmod(0o700)


def test_find_images_keeps_the_order_given_and_lists_each_file_once(tmp_path, monkeypatch):
    make(tmp_path, "z.jpg", "in/b.jpg", "in/a/c.jpg", "in/.hidden.jpg")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    given = [Path("z.jpg"), Path("in"), tmp_path / "in" / "b.jpg", Path("in/../z.jpg"), Path("missing.jpg")]
    assert find_images(given) == [Path("z.jpg"), Path("in/a/c.jpg"), Path("in/b.jpg"), Path("missing.jpg")]


def test_a_folder_around_the_classes_is_pointed_past(tmp_path):
    make(tmp_path, "photos/cover.jpg", "photos/cat/1.jpg", "photos/dog/1.jpg")
    with pytest.raises(FewshotError, match="single class, 'photos'") as caught:
        read_folder(tmp_path)
    assert f"point at {tmp_path / 'photos'}." in caught.value.hint
