import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.atomic import check_writable, growing, staged, staged_folder, write_atomically

ROOT = Path(__file__).resolve().parents[2]
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


# --- what is on the disk, and when ------------------------------------------------------------------------------------


@pytest.fixture
def order(monkeypatch) -> list[tuple[str, str]]:
    """What is synced and what takes its place, in turn, by the kind of file and the name."""
    seen: list[tuple[str, str]] = []
    sync, replace, rename = os.fsync, Path.replace, Path.rename

    def fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        if not is_folder:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size)  # raises on a handle that can't write
        seen.append(("sync", "folder" if is_folder else "file"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", lambda one, other: seen.append(("place", other.name)) or replace(one, other))
    monkeypatch.setattr(Path, "rename", lambda one, other: seen.append(("place", other.name)) or rename(one, other))
    return seen


def test_a_file_is_on_the_disk_before_it_takes_its_place_and_its_name_after(tmp_path, order):
    write_atomically(tmp_path / "x", "content")
    expected = [("sync", "file"), ("place", "x"), ("sync", "folder")]
    assert order == (expected if os.name != "nt" else expected[:2])
    order.clear()
    with growing(tmp_path / "y") as file:
        file.write("content")
    expected = [("sync", "file"), ("place", "y"), ("sync", "folder")]
    assert order == (expected if os.name != "nt" else expected[:2])


@pytest.mark.skipif(os.name == "nt", reason="syncs no folders")
def test_a_folder_is_on_the_disk_before_it_takes_its_place_and_its_name_after(tmp_path, order):
    with staged_folder(tmp_path / "x") as draft:
        (draft / "a").write_text("a")
        (draft / "below").mkdir()
        (draft / "below" / "b").write_text("b")
    assert order == [("sync", "file"), ("sync", "file"), ("sync", "folder"), ("place", "x"), ("sync", "folder")]


def test_the_umask_is_never_touched(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", None)
    write_atomically(tmp_path / "x", "")
    with staged_folder(tmp_path / "y"):
        pass


# --- links, pipes and devices -----------------------------------------------------------------------------------------

needs_links = pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")


@needs_links
@pytest.mark.parametrize("is_there", [True, False])
def test_links_are_followed_and_stay(tmp_path, is_there):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    if is_there:
        target.write_text("old")
    link.symlink_to(Path("far") / "target")
    check_writable(link)
    write_atomically(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    with growing(link) as file:
        file.write("newer")
    assert link.is_symlink() and target.read_text() == "newer"
    (tmp_path / "folder").symlink_to("far", target_is_directory=True)
    with staged_folder(tmp_path / "folder") as draft:
        (draft / "x").touch()
    assert (tmp_path / "folder").is_symlink() and [path.name for path in (tmp_path / "far").iterdir()] == ["x"]


@needs_links
def test_a_link_to_itself_or_where_nothing_can_be_written_is_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    (tmp_path / "in-a-file").symlink_to("file/x")
    for name in ("loop", "in-a-file"):
        for act in (check_writable, lambda path: write_atomically(path, "")):
            with pytest.raises(FewshotError, match="can't be written"):
                act(tmp_path / name)


@needs_links
def test_a_device_stays_what_it_is(tmp_path):
    device = tmp_path / "null"  # never the machine's own: a fault would replace it by a file
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_text("gone")
    except OSError:
        pytest.skip("may make no devices here")
    check_writable(device)
    write_atomically(device, "gone")
    _grown(device, "gone")
    assert stat.S_ISCHR(device.stat().st_mode) and list(tmp_path.iterdir()) == [device]


@needs_links
@pytest.mark.parametrize("write", [write_atomically, lambda path, text: _grown(path, text)])
def test_a_pipe_is_written_to(tmp_path, write):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_writable(pipe)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(pipe.read_text)
        write(pipe, "content")
        assert reader.result(30) == "content"
    assert list(tmp_path.iterdir()) == [pipe] and stat.S_ISFIFO(pipe.stat().st_mode)


def _grown(path: Path, text: str) -> None:
    with growing(path) as file:
        file.write(text)


@needs_links
def test_standard_output_is_written_to(tmp_path):
    script = (
        "from pathlib import Path\nfrom fewshot_cli.storage.atomic import write_atomically, growing\n"
        "write_atomically(Path('/dev/stdout'), 'one ')\n"
        "with growing(Path('/dev/stdout')) as file: file.write('two')\n"
    )
    piped = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (piped.stdout, piped.stderr) == ("one two", "")


def test_an_interrupted_growing_file_keeps_its_lines_beside_what_was_there(tmp_path):
    (tmp_path / "x").write_text("old")
    with pytest.raises(KeyboardInterrupt), growing(tmp_path / "x") as file:
        file.write("first\n")
        assert (tmp_path / "x.partial").read_text() == "first\n"
        raise KeyboardInterrupt
    assert (tmp_path / "x").read_text() == "old" and (tmp_path / "x.partial").read_text() == "first\n"
    _grown(tmp_path / "x", "whole\n")
    assert (tmp_path / "x").read_text() == "whole\n" and list(tmp_path.iterdir()) == [tmp_path / "x"]
