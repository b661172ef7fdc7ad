"""Decoded pictures come back as they were, whoever asks, whatever happened to the disk meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.files import pixels as pixels_module
from fewshot_cli.files.pixels import DecodedPictures, decoded

ROOT = Path(__file__).resolve().parents[2]
SMALL = Preprocessing((6, 5), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ROW = 3 * 6 * 5


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pixels"


def picture(content: str) -> np.ndarray:
    return np.random.default_rng(list(content.encode())).integers(0, 256, (3, 6, 5), dtype=np.uint8)


class Asked:
    """Asks for pictures, and remembers how many were decoded for it."""

    def __init__(self, contents: list[str], preprocessing: Preprocessing = SMALL, bad: tuple[str, ...] = ()) -> None:
        self.contents, self.bad = contents, bad
        self.decoded = 0
        self.told: list[tuple[int, int]] = []
        self.found = decoded(contents, preprocessing, self.load, lambda done, total: self.told.append((done, total)))

    def load(self) -> Iterator[np.ndarray | Exception]:
        for content in self.contents:
            self.decoded += 1
            yield ValueError(f"{content} is broken") if content in self.bad else picture(content)


def is_right(found: DecodedPictures, contents: list[str], bad: tuple[str, ...] = ()) -> bool:
    expected = [np.zeros((3, 6, 5)) if content in bad else picture(content) for content in contents]
    reasons = {row: f"{content} is broken" for row, content in enumerate(contents) if content in bad}
    assert not found.pixels.flags.writeable
    assert found.pixels.dtype == np.uint8
    return np.array_equal(found.pixels, np.stack(expected)) and dict(found.unreadable) == reasons


def names(folder: Path) -> list[str]:
    """The suffixes of what lies in the cache."""
    return sorted(path.suffix for path in folder.iterdir())


def test_the_second_time_nothing_is_decoded(folder):
    contents = [f"c{i}" for i in range(150)]
    first = Asked(contents, bad=("c3", "c149"))
    assert first.told == [(i + 1, 150) for i in range(150)]
    assert names(folder) == [".json", ".npy"]
    second = Asked(contents, bad=("c3", "c149"))
    assert (first.decoded, second.decoded, second.told) == (150, 0, [])
    for one in (first, second):
        assert is_right(one.found, contents, ("c3", "c149"))
        assert isinstance(one.found.pixels, np.memmap)
        with pytest.raises(ValueError, match="read-only"):
            one.found.pixels[0] = 0


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65])
def test_any_number_of_pictures(count):
    contents = [str(i) for i in range(count)]
    assert is_right(Asked(contents).found, contents)
    assert is_right(Asked(contents).found, contents)


def test_no_pictures(folder):
    assert Asked([]).found.pixels.shape == (0, 3, 6, 5)
    assert not folder.exists()


def test_other_contents_another_order_and_another_preprocessing_are_other_pictures(folder):
    Asked(["a", "b"])
    assert Asked(["b", "a"]).decoded == 2
    assert Asked(["a", "b", "b"]).decoded == 3
    assert Asked(["a", "b"], replace(SMALL, crop_fraction=0.9)).decoded == 2
    assert len(list(folder.glob("*.npy"))) == 4
    assert Asked(["a", "b"]).decoded == 0


def test_another_decoder_decodes_anew(monkeypatch):
    Asked(["a", "b"])
    monkeypatch.setattr(pixels_module, "version", lambda package: "0.0.1")
    assert Asked(["a", "b"]).decoded == 2


def test_a_picture_of_another_size_is_a_bug_not_a_stretched_picture(folder):
    def load():
        yield picture("a")
        yield np.zeros((3, 1, 1), dtype=np.uint8)

    with pytest.raises(ValueError, match="picture 2 is uint8 of shape"):
        decoded(["a", "b"], SMALL, load, lambda done, total: None)
    assert names(folder) == []


@pytest.mark.parametrize("given", [1, 3])
def test_too_few_or_too_many_pictures_are_a_bug(folder, given):
    with pytest.raises(ValueError, match="zip"):
        decoded(["a", "b"], SMALL, lambda: iter([picture("a")] * given), lambda done, total: None)
    assert names(folder) == []


# --- interruption --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", [KeyboardInterrupt, OSError, KeyError])
def test_an_interruption_leaves_nothing_behind(folder, reason):
    def load():
        yield picture("a")
        raise reason("in the middle")

    with pytest.raises(reason):
        decoded(["a", "b"], SMALL, load, lambda done, total: None)
    assert names(folder) == []
    assert is_right(Asked(["a", "b"]).found, ["a", "b"])


SCRIPT = """
import sys, time
import numpy as np
from pathlib import Path
from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.files.pixels import decoded

def load():
    for i in range(4):
        with Path(sys.argv[1]).open("a") as log:
            log.write(f"{i}\\n")
        time.sleep(float(sys.argv[2]))
        yield np.full((3, 6, 5), 40 * i + 7, dtype=np.uint8)

preprocessing = Preprocessing((6, 5), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
found = decoded(list("abcd"), preprocessing, load, lambda done, total: None)
print(type(found.pixels).__name__, found.pixels.tobytes().hex())
"""


def started(log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(log), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)


def test_of_two_processes_at_once_one_decodes_and_both_get_the_same(folder, tmp_path):
    running = [started(tmp_path / "log", 0.2) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    expected = b"".join(bytes([40 * i + 7]) * ROW for i in range(4))
    assert answers == [f"memmap {expected.hex()}\n"] * 2
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3"]
    assert names(folder) == [".json", ".npy"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that can't be caught")
def test_a_killed_process_blocks_nobody_and_its_draft_is_removed(folder, tmp_path):
    killed = started(tmp_path / "log", 30)
    while not list(folder.glob("*.part")):
        assert killed.poll() is None
        time.sleep(0.02)
    # one that is at work is let be, and its draft too
    assert is_right(Asked(["x"]).found, ["x"])
    assert len(list(folder.glob("*.part"))) == 1
    killed.kill()
    killed.communicate()
    assert is_right(Asked(["y"]).found, ["y"])
    assert not list(folder.glob("*.part"))
    assert names(folder) == [".json"] * 2 + [".npy"] * 2


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that can't be caught")
def test_after_a_kill_the_same_pictures_are_made_anew_and_the_draft_is_removed(folder, tmp_path):
    killed = started(tmp_path / "log", 30)
    while not list(folder.glob("*.part")):
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    again = started(tmp_path / "again", 0)
    assert again.communicate(timeout=60)[0].startswith("memmap")
    assert (tmp_path / "again").read_text().split() == ["0", "1", "2", "3"]
    assert names(folder) == [".json", ".npy"]


def test_threads_decode_once_too():
    contents = [str(i) for i in range(20)]
    together = threading.Barrier(4)

    def ask(_: int) -> Asked:
        together.wait()
        return Asked(contents)

    with ThreadPoolExecutor(4) as pool:
        all_asked = list(pool.map(ask, range(4)))
    assert sum(asked.decoded for asked in all_asked) == 20
    assert all(is_right(asked.found, contents) for asked in all_asked)


# --- damage --------------------------------------------------------------------------------------------------------


def longer(content: bytes) -> bytes:
    return content + b"\0"


def changed_at(place: int):
    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 1
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1],
        lambda content: content[:50],
        lambda content: b"",
        longer,
        lambda content: b"PK\3\4" * 99,
    ]
    + [changed_at(place) for place in (0, 6, 30, -1, -ROW, -3 * ROW)],
)
def test_a_damaged_array_is_made_anew(folder, change):
    contents = ["a", "b", "c"]
    Asked(contents, bad=("b",))
    (array,) = folder.glob("*.npy")
    whole = array.read_bytes()
    array.write_bytes(change(whole))
    again = Asked(contents, bad=("b",))
    assert again.decoded == 3
    assert is_right(again.found, contents, ("b",))
    assert array.read_bytes() == whole
    assert Asked(contents).decoded == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"crc32": 1, "unreadable": {}}', "\xff", "null"])
def test_damaged_notes_are_made_anew(folder, text):
    Asked(["a", "b"], bad=("b",))
    (notes,) = folder.glob("*.json")
    whole = notes.read_text()
    notes.write_text(text, encoding="latin-1")
    assert is_right(Asked(["a", "b"], bad=("b",)).found, ["a", "b"], ("b",))
    assert notes.read_text() == whole


def test_damaged_reasons_are_made_anew(folder):
    Asked(["a", "b"], bad=("b",))
    (notes,) = folder.glob("*.json")
    for reasons in ([], {"b": "x"}, None):
        notes.write_text(json.dumps(json.loads(notes.read_text()) | {"unreadable": reasons}))
        assert is_right(Asked(["a", "b"], bad=("b",)).found, ["a", "b"], ("b",))


@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_one_file_without_the_other_is_made_anew(folder, suffix):
    Asked(["a", "b"])
    next(folder.glob(f"*{suffix}")).unlink()
    again = Asked(["a", "b"])
    assert again.decoded == 2
    assert is_right(again.found, ["a", "b"])
    assert names(folder) == [".json", ".npy"]


# --- no room -------------------------------------------------------------------------------------------------------


def test_a_folder_that_can_not_be_made_gives_the_pictures_in_memory(folder):
    folder.parent.write_text("in the way")
    asked = Asked(["a", "b"], bad=("a",))
    assert asked.decoded == 2
    assert is_right(asked.found, ["a", "b"], ("a",))
    assert not isinstance(asked.found.pixels, np.memmap)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read_is_read(folder):
    Asked(["a", "b"])
    folder.chmod(0o500)
    try:
        assert Asked(["a", "b"]).decoded == 0
        assert is_right(Asked(["c"]).found, ["c"])
    finally:
        folder.chmod(0o700)


def test_a_full_disk_gives_the_pictures_in_memory(folder):
    """The system's limit on the size of a file stands in for the disk: writing fails in the midst of a picture."""
    resource = pytest.importorskip("resource")
    contents = [str(i) for i in range(50)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * ROW + 150, before[1]))
    try:
        asked = Asked(contents, bad=("3",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_right(asked.found, contents, ("3",))
    assert not isinstance(asked.found.pixels, np.memmap)
    assert names(folder) == []
    assert Asked(contents, bad=("3",)).decoded == 50


def test_a_disk_that_fills_up_at_the_very_end_keeps_nothing(folder):
    resource = pytest.importorskip("resource")
    contents = [f"{i:0500d}" for i in range(10)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * ROW + 150, before[1]))
    try:
        asked = Asked(contents, bad=tuple(contents))  # with more reasons than pixels
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_right(asked.found, contents, tuple(contents))
    assert names(folder) == []


def test_a_disk_that_is_known_to_be_full_costs_no_second_decoding(folder, monkeypatch):
    monkeypatch.setattr(pixels_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2 * ROW}))
    asked = Asked(["a", "b", "c"])
    assert asked.decoded == 3
    assert is_right(asked.found, ["a", "b", "c"])
    assert names(folder) == []


def test_the_pictures_not_used_for_longest_go_first(folder, monkeypatch):
    def days_ago(content: str, days: int) -> None:
        for path in folder.glob(f"{content_key[content]}.*"):
            os.utime(path, (time.time() - 86400 * days,) * 2)

    def made(content: str) -> Asked:
        before = set(folder.glob("*.npy"))
        asked = Asked([content] * 20)
        for path in set(folder.glob("*.npy")) - before:
            content_key[content] = path.stem
        return asked

    def kept() -> set[str]:
        assert {path.stem for path in folder.glob("*.npy")} == {path.stem for path in folder.glob("*.json")}
        return {content for content, key in content_key.items() if (folder / f"{key}.npy").exists()}

    content_key: dict[str, str] = {}
    monkeypatch.setattr(pixels_module, "LARGEST", 3 * (20 * ROW + 128 + 100))
    for days, content in enumerate("abc"):
        made(content)
        days_ago(content, 9 - days)
    first = made("a")  # the oldest, but used just now
    assert first.decoded == 0
    made("d")
    assert kept() == {"a", "c", "d"}
    assert (first.found.pixels == picture("a")).all()

    made("x")
    assert kept() == {"a", "d", "x"}
    monkeypatch.setattr(pixels_module, "LARGEST", 1)  # the one asked for stays, however large it is
    asked = made("y")
    assert kept() == {"y"}
    assert (asked.found.pixels == picture("y")).all()
    assert (first.found.pixels == picture("a")).all()  # evicted, and still in use
    assert set(names(folder)) == {".json", ".npy"}


def test_what_is_being_made_is_never_evicted(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels_module, "LARGEST", 1)
    other = started(tmp_path / "log", 0.2)
    while not list(folder.glob("*.part")):
        assert other.poll() is None
        time.sleep(0.02)
    assert is_right(Asked(["x"]).found, ["x"])
    assert other.communicate(timeout=60)[0].startswith("memmap")
    assert (tmp_path / "log").read_text().split() == ["0", "1", "2", "3"]
