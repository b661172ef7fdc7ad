import os
import shutil
from pathlib import Path

import pytest

from fewshot_cli.jobs.classify.prediction.watch import new_pictures


class Ticks:
    """In the place of a second's sleep, the next thing that happens; then somebody interrupts."""

    def __init__(self, *happenings):
        self.left = list(happenings)

    def __call__(self, seconds):
        assert seconds == 1
        if not self.left:
            raise KeyboardInterrupt
        self.left.pop(0)()


def nothing() -> None: ...


def seen(folder: Path, *happenings) -> list[list[str]]:
    found = []
    with pytest.raises(KeyboardInterrupt):
        for paths in new_pictures(folder, Ticks(*happenings)):
            found.append([path.relative_to(folder).as_posix() for path in paths])
    return found


def written(path: Path, text: str):
    def write() -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        os.utime(path, ns=(0, len(text)))

    return write


def test_a_picture_comes_once_it_is_whole_and_once(tmp_path):
    (tmp_path / "old.jpg").write_text("old")
    a = tmp_path / "a.jpg"
    happens = written(a, "half"), written(a, "half and"), written(a, "half and half"), nothing, nothing, nothing
    assert seen(tmp_path, *happens) == [["a.jpg"]]


def test_what_is_written_anew_comes_again_and_what_is_no_picture_never(tmp_path):
    old = tmp_path / "old.jpg"
    written(old, "old")()
    happens = (
        written(tmp_path / "in" / "a.png", "a"),
        written(tmp_path / "x.jpg.part", "x"),
        written(tmp_path / "empty.jpg", ""),
        nothing,
        written(old, "other"),
        nothing,
    )
    assert seen(tmp_path, *happens) == [["in/a.png"], ["old.jpg"]]


def test_a_folder_that_goes_away_may_come_back(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    gone = lambda: shutil.rmtree(folder)  # noqa: E731
    assert seen(folder, gone, nothing, written(folder / "a.jpg", "a"), nothing) == [["a.jpg"]]


def test_what_comes_before_the_first_look_is_new_too(tmp_path):
    written(tmp_path / "old.jpg", "old")()
    coming = new_pictures(tmp_path, Ticks(nothing, nothing))
    written(tmp_path / "a.jpg", "a")()  # while what is there already is being labelled
    found = []
    with pytest.raises(KeyboardInterrupt):
        for paths in coming:
            found += paths
    assert found == [tmp_path / "a.jpg"]
