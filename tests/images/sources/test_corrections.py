import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.corrections import corrections


@pytest.fixture
def said(tmp_path):
    def said(text, name="list.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return [(row.line, row.path.name, row.label) for row in corrections(tmp_path / name)]

    return said


def test_rows_with_a_label_count(said):
    assert said("path,label\na.jpg,cat\nb.jpg,\n\nc.jpg,dog\n") == [(2, "a.jpg", "cat"), (5, "c.jpg", "dog")]
    assert said('{"path": "a.jpg", "label": "cat"}\n', "list.jsonl") == [(1, "a.jpg", "cat")]


def test_the_truth_has_a_column_of_its_own(said):
    text = "path;label;probability;Correct\na.jpg;cat;0.7;dog\nb.jpg;cat;0.9;\n"
    assert said(text) == [(2, "a.jpg", "dog")]


def test_answers_are_no_truth(said):
    with pytest.raises(FewshotError, match="no truth"):
        said("path,label,probability\na.jpg,cat,0.7\n")
    with pytest.raises(FewshotError, match="no truth"):
        said('{"path": "a.jpg", "label": "cat", "probability": 0.7}\n', "list.jsonl")


def test_pictures_lie_beside_the_list_or_here(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    (tmp_path / "here.jpg").touch()
    (tmp_path / "lists" / "beside.jpg").touch()
    (tmp_path / "-5.jpg").touch()
    listed = tmp_path / "lists" / "x.csv"
    listed.write_text("path,label\nhere.jpg,a\nbeside.jpg,a\n'-5.jpg,a\n" + "x" * 5000 + ",a\n")
    monkeypatch.chdir(tmp_path)
    *found, _ = [row.path for row in corrections(listed)]
    assert [path.resolve() for path in found] == [
        tmp_path / "here.jpg",
        tmp_path / "lists" / "beside.jpg",
        tmp_path / "-5.jpg",
    ]


def test_what_is_no_list_is_a_sentence(said, tmp_path):
    for text, name, problem in (
        ("a", "list.txt", "is no list"),
        ("name,label\na,b\n", "list.csv", "no column path"),
        ("path,label\na\0b,c\n", "list.csv", "zero byte"),
        ("{", "list.jsonl", "not JSON"),
    ):
        with pytest.raises(FewshotError, match=problem):
            said(text, name)
    with pytest.raises(FewshotError, match="can't be read"):
        corrections(tmp_path / "nowhere.csv")
