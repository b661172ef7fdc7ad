import json

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.images.sources.label_sets import check_option, label_sets, parts_of, reading_of
from fewshot_cli.images.sources.labelled import read_labelled


def folder(*classes: str, several: bool = False) -> Folder:
    return Folder("photos", tuple(sorted(classes)), (), several=several)


@pytest.mark.parametrize(
    ("classes", "parted"),
    [
        (("cat", "dog", "cat+dog"), {"cat+dog": ("cat", "dog")}),
        (("cat+dog", "dog+bird", "bird+cat"), {"bird+cat": ("bird", "cat")}),
        (("cat", "cat + dog", "dog"), {"cat + dog": ("cat", "dog")}),
        (("a", "b", "c", "a+b+c"), {"a+b+c": ("a", "b", "c")}),
    ],
)
def test_a_name_is_parted_where_its_parts_are_classes_elsewhere(classes, parted):
    sets = label_sets(folder(*classes))
    assert sets is not None and sets.keys() == set(classes) and parted.items() <= sets.items()


@pytest.mark.parametrize("classes", [("c", "c++", "java"), ("salt+pepper", "sugar"), ("google+", "x"), ("a+a", "a")])
def test_other_names_are_one_class(classes):
    assert label_sets(folder(*classes)) is None
    assert "is one class" in (reading_of(folder(*classes)) or "")


def test_what_can_not_be_said_is_asked():
    with pytest.raises(FewshotError, match="'cat\\+owl' may be one class") as found:
        label_sets(folder("cat", "dog", "cat+dog", "cat+owl"))
    assert "--labels several" in found.value.hint
    sets = label_sets(folder("cat", "dog", "cat+dog", "cat+owl"), "several")
    assert sets is not None and sets["cat+owl"] == ("cat", "owl")
    assert label_sets(folder("cat", "dog", "cat+dog", "cat+owl"), "one") is None


def test_an_option_that_would_do_nothing_is_refused():
    with pytest.raises(FewshotError, match="does nothing"):
        check_option(folder("cat", "c++"), "several")
    check_option(folder("cat", "dog+owl"), "several")
    with pytest.raises(FewshotError, match="several labels of an image"):
        check_option(folder("cat", "dog+owl", several=True), "one")


def test_parts_are_sorted_and_differ():
    assert parts_of("dog+cat") == ("cat", "dog")
    assert parts_of("c++") is None and parts_of("a+a") is None and parts_of("a") is None


def test_a_list_has_arrays_of_labels(tmp_path):
    rows = [["dog", "cat"], ["cat"], "dog", ["owl", "cat"]]
    lines = [json.dumps({"path": f"{i}.jpg", "label": label}) for i, label in enumerate(rows)]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = read_labelled(path, several=True)
    assert found.classes == ("cat", "cat+dog", "cat+owl", "dog") and found.several
    sets = label_sets(found)
    assert sets is not None and sets["cat+owl"] == ("cat", "owl")
    with pytest.raises(FewshotError, match="the label is no text"):
        read_labelled(path)


@pytest.mark.parametrize("labels", [[], ["c++", "java"], [""], [["a"]]])
def test_an_array_that_is_none_of_labels_is_refused(tmp_path, labels):
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"path": "1.jpg", "label": labels}), encoding="utf-8")
    with pytest.raises(FewshotError, match="line 1"):
        read_labelled(path, several=True)


def test_cells_of_a_table_are_names_like_those_of_folders(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("path,label\n1.jpg,cat\n2.jpg,dog\n3.jpg,cat+dog\n", encoding="utf-8")
    sets = label_sets(read_labelled(path, several=True))
    assert sets is not None and sets["cat+dog"] == ("cat", "dog")
