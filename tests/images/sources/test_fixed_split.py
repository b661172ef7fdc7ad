"""Fixed splits: CoOp's JSON and lists with a column `split`, and what is amiss in them."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import Dataset, read_datasets
from fewshot_cli.images.sources.labelled import read_labelled

PARTS: dict[str, Any] = {
    "train": [["a/1.jpg", 1, "apple"], ["z/1.jpg", 0, "zebra"], ["a/2.jpg", 1, "apple"]],
    "val": [["z/9.jpg", 0, "zebra"]],
    "test": [["z/2.jpg", 0, "zebra"], ["a/3.jpg", 1, "apple"]],
}


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder as CoOp lays it out: the split beside a folder of images, and another beside that."""
    for path in ("a/1.jpg", "a/2.jpg", "a/3.jpg", "z/1.jpg", "z/2.jpg", "z/9.jpg"):
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path).write_bytes(path.encode())
    (tmp_path / "annotations").mkdir()
    return tmp_path


def written(home: Path, content: Any = PARTS) -> Path:
    path = home / "split_zhou_Things.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def only(path: Path, split: str | None = None) -> Dataset:
    (dataset,) = read_datasets(path, split)
    return dataset


def told(dataset: Dataset) -> list[tuple[str, str, str | None]]:
    return [
        (dataset.classes[sample.label], "/".join(Path(sample.stored.name).parts[-2:]), sample.role)
        for sample in dataset.samples
    ]


def test_train_is_learned_from_and_test_asked_about_in_the_order_of_labels(home):
    dataset = only(written(home))
    assert (dataset.name, dataset.classes) == ("Things", ("zebra", "apple"))
    assert told(dataset) == [
        ("zebra", "z/1.jpg", "support"),
        ("apple", "a/1.jpg", "support"),
        ("apple", "a/2.jpg", "support"),
        ("zebra", "z/2.jpg", "query"),
        ("apple", "a/3.jpg", "query"),
    ]


@pytest.mark.parametrize("name", ["list.jsonl", "list.csv"])
def test_a_list_with_a_split_is_the_same_with_classes_by_name(home, name):
    rows = [(path, label, part) for part, entries in PARTS.items() for path, _, label in entries]
    if name.endswith("csv"):
        text = "path,class,split\n" + "\n".join(map(",".join, rows))
    else:
        text = "\n".join(json.dumps(dict(zip(("path", "class", "split"), row, strict=True))) for row in rows)
    (home / name).write_text(text, encoding="utf-8")
    dataset = only(home / name)
    assert (dataset.name, dataset.classes) == ("list", ("apple", "zebra"))
    assert sorted(told(dataset)) == sorted(told(only(written(home))))


def test_one_part_is_a_data_set_of_its_own(home):
    part = only(written(home), "test")
    assert told(part) == [("apple", "a/3.jpg", None), ("zebra", "z/2.jpg", None)]
    with pytest.raises(FewshotError, match="no split 'trial'"):
        only(written(home), "trial")


def test_the_images_may_lie_in_the_folder_of_the_split_itself(home):
    inside = written(home / "images")
    assert told(only(inside)) == told(only(written(home)))


def test_what_takes_one_set_of_images_is_told_that_these_are_parts(home):
    with pytest.raises(FewshotError, match=r"parts of a data set \(train, val, test\)"):
        read_labelled(written(home))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ({"train": PARTS["train"]}, "no list 'test'"),
        (PARTS | {"val": {}}, "'val' is no list"),
        (PARTS | {"test": [["a/3.jpg", 1]]}, r'test, entry 1: \["a/3.jpg", 1\] is not \[path, label, class name\]'),
        (PARTS | {"test": [["a/3.jpg", "1", "apple"]]}, "is not"),
        (PARTS | {"test": [["a/3.jpg", True, "apple"]]}, "is not"),
        (PARTS | {"test": [["a/3.jpg", 1, "pear"]]}, "the label 1 is called 'pear' here and 'apple' before"),
        (PARTS | {"test": [["a/3.jpg", 2, "apple"]]}, "two labels are called 'apple'"),
        (PARTS | {"test": [["a/1.jpg", 1, "apple"]]}, "a/1.jpg is in train and in test"),
        (
            PARTS | {"test": [["a/3.jpg", 1, "apple"], ["a/3.jpg", 0, "zebra"]]},
            "a/3.jpg is labelled 'zebra' here and 'apple' before",
        ),
        (PARTS | {"test": [["a/4.jpg", 1, "apple"], ["a/5.jpg", 1, "apple"]]}, "2 of 6 images are not there, such as"),
        ({"train": [["a/1.jpg", 1, "apple"]], "test": [["a/3.jpg", 1, "apple"]]}, "a single class"),
    ],
)
def test_what_is_amiss_is_one_sentence(home, content, says):
    with pytest.raises(FewshotError, match=says) as caught:
        only(written(home, content))
    assert caught.value.hint and "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"path": "a/1.jpg", "class": "apple", "split": "dev"}'], "line 1: the split is 'dev'"),
        (['{"path": "a/1.jpg", "class": "apple", "split": "train"}'], "no image whose split is test"),
        (['{"path": "a/1.jpg", "class": "apple", "split": "train"}', '{"path": "a/2.jpg", "class": "apple"}'], "split"),
        (['{"path": "", "class": "apple", "split": "train"}'], "path or class is empty"),
    ],
)
def test_what_is_amiss_in_a_list_is_said_with_its_line(home, lines, says):
    (home / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(FewshotError, match=says):
        only(home / "list.jsonl")


def test_a_list_without_a_split_is_read_as_before(home):
    (home / "list.jsonl").write_text(
        '{"path": "images/a/1.jpg", "class": "apple"}\n{"path": "images/z/1.jpg", "class": "zebra"}\n'
    )
    assert {role for _, _, role in told(only(home / "list.jsonl"))} == {None}


@pytest.mark.parametrize("parts", [("train", "test"), ("train", "Validation"), ("train",), ("a", "b")])
def test_a_list_of_several_parts_is_not_learned_from_as_one(tmp_path, parts):
    write_folder(tmp_path / "things", ("cat", "star"), 2, seed=0, size=8)
    lines = ["path,label,split"]
    for place, path in enumerate(sorted((tmp_path / "things").glob("*/*"))):
        lines.append(f"{path.relative_to(tmp_path)},{path.parent.name},{parts[place % len(parts)]}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    if len(parts) > 1 and "train" in parts:
        with pytest.raises(FewshotError, match="holds parts of a data set"):
            read_labelled(tmp_path / "list.csv")
    else:
        assert len(read_labelled(tmp_path / "list.csv").items) == 4
