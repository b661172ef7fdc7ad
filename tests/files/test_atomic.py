import os
from pathlib import Path

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.files.atomic import check_writable, staged, staged_folder, write_atomically

needs_permissions = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write anywhere")


def test_writing_makes_the_folders_above_and_leaves_one_file(tmp_path):
    path = tmp_path / "a" / "b" / "é ب.txt"
    write_atomically(path, "first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError, FewshotError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, reason):
    path = tmp_path / "kept"
    path.write_text("old")
    with pytest.raises(reason), staged(path) as draft:
        draft.write_text("half of the n")
        raise reason("in the middle")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_first_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "new") as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_new_file_is_as_readable_as_any_other(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    write_atomically(tmp_path / "staged", "")
    assert (tmp_path / "staged").stat().st_mode == ordinary.stat().st_mode


def test_a_name_of_the_greatest_length_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    write_atomically(path, "content")
    assert path.read_text() == "content"


def test_text_that_is_no_utf8_is_escaped(tmp_path):
    write_atomically(tmp_path / "a", "caf\udce9")
    assert (tmp_path / "a").read_bytes() == rb"caf\udce9"


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for act in (check_writable, lambda path: write_atomically(path, "")):
        with pytest.raises(FewshotError, match="can't be written"):
            act(tmp_path / "file" / "inside")


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(FewshotError, match="is a folder") as caught:
        check_writable(tmp_path)
    assert str(tmp_path) in caught.value.hint


def test_an_impossible_name_is_one_sentence(tmp_path):
    with pytest.raises(FewshotError, match="too long"):
        check_writable(tmp_path / ("x" * 300))


def test_checking_writes_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


@needs_permissions
def test_a_folder_without_permission_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    for act in (check_writable, lambda path: write_atomically(path, "")):
        with pytest.raises(FewshotError, match="can't be written"):
            act(tmp_path / "file")


def test_a_device_that_is_full_is_one_sentence(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with (
        pytest.raises(FewshotError, match="No space left"),
        staged(tmp_path / "x"),
        Path("/dev/full").open("wb") as full,
    ):
        full.write(b"x")
        full.flush()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_takes_the_place_of_another_whole(tmp_path):
    place = tmp_path / "a" / "adapter"
    for content in ("first", "second"):
        with staged_folder(place) as draft:
            assert draft.parent == place.parent
            (draft / content).write_text(content)
    assert [path.name for path in place.iterdir()] == ["second"]
    assert list(place.parent.iterdir()) == [place]
    (tmp_path / "ordinary").mkdir()
    assert place.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError, FewshotError])
def test_an_interrupted_folder_leaves_the_old_one_and_nothing_else(tmp_path, reason):
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "old").touch()
    with pytest.raises(reason), staged_folder(place) as draft:
        (draft / "new").touch()
        raise reason("in the middle")
    assert list(tmp_path.rglob("*")) == [place, place / "old"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    place = tmp_path / "adapter"
    place.mkdir()
    (place / "old").touch()
    rename = Path.rename

    def failing(self, target):
        if self.suffix == ".part":
            raise OSError(5, "disk on fire")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(FewshotError, match="disk on fire"), staged_folder(place) as draft:
        (draft / "new").touch()
    assert list(tmp_path.rglob("*")) == [place, place / "old"]
