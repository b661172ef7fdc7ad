import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage import copying
from fewshot_cli.storage.copying import copied_into, folder_name, folder_names


def test_nothing_is_written_over_and_the_same_is_not_copied_twice(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_text("c" if name == "c" else "ab")
    into = tmp_path / "into"
    assert copied_into(into, tmp_path / "a" / "x.jpg") == (into / "x.jpg", False)
    assert copied_into(into, tmp_path / "b" / "x.jpg") == (into / "x.jpg", True)
    assert copied_into(into, tmp_path / "c" / "x.jpg") == (into / "x-2.jpg", False)
    assert copied_into(into, tmp_path / "c" / "x.jpg") == (into / "x-2.jpg", True)
    assert [(into / name).read_text() for name in ("x.jpg", "x-2.jpg")] == ["ab", "c"]
    assert (tmp_path / "a" / "x.jpg").read_text() == "ab"


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path):
    (tmp_path / "x.jpg").write_text("x")
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "x.jpg").symlink_to(tmp_path / "elsewhere")
    assert copied_into(tmp_path / "into", tmp_path / "x.jpg").path.name == "x-2.jpg"
    assert not (tmp_path / "elsewhere").exists()


def test_half_a_copy_is_taken_away(tmp_path, monkeypatch):
    (tmp_path / "x.jpg").write_text("x")

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copying.os, "fsync", full)
    with pytest.raises(FewshotError, match="No space left"):
        copied_into(tmp_path / "into", tmp_path / "x.jpg")
    assert not list((tmp_path / "into").iterdir())


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("red kite", "red kite"),
        ("Fuß", "Fuß"),
        ("a/b", "a_b"),
        ("..", "_"),
        (".hidden", "_hidden"),
        ("con", "_con"),
        ("a:b*?", "a_b__"),
        ("end. ", "end"),
        ("", "_"),
    ],
)
def test_names_of_folders_are_names_everywhere(name, folder):
    assert folder_name(name) == folder
    assert len(folder_name("ß" * 300).encode()) <= 200


def test_no_two_names_share_a_folder():
    names = ["a:b", "a_b", "a?b", "Cat", "cat", "cafe\u0301", "café", "x" * 300, "x" * 301, "a_b-2"]
    folders = folder_names(names)
    assert len({folder.casefold() for folder in folders.values()}) == len(names) == len(folders)
    assert folders["a_b"] == "a_b" and folders["a_b-2"] == "a_b-2" and folders["a:b"] == "a_b-3"
    assert folder_names(reversed(names)) == folders
