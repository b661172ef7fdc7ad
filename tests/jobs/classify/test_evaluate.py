import shutil
from pathlib import Path

import pytest

from fewshot_cli.errors import FewshotError


@pytest.fixture
def file(drawn, tmp_path, learn):
    learn(drawn, tmp_path / "x.fewshot")
    return tmp_path / "x.fewshot"


@pytest.mark.slow
def test_the_figures_follow_from_the_predictions(file, unseen, evaluate, predict):
    report = evaluate(file, unseen)
    names = report["classes"]
    answers = [(Path(row["path"]).parent.name, row["label"]) for row in predict(file, unseen)["predictions"]]
    assert report["n"] == report["images"] == len(answers)
    assert report["confusion"] == [[answers.count((true, given)) for given in names] for true in names]
    assert report["accuracy"] == sum(true == given for true, given in answers) / len(answers)
    assert 0 <= report["low"] <= report["accuracy"] <= report["high"] <= 1
    for index, name in enumerate(names):
        found = report["per_class"][name]
        assert found["n"] == 5 and found["accuracy"] == report["confusion"][index][index] / 5
    mean = sum(found["accuracy"] for found in report["per_class"].values()) / len(names)
    assert report["balanced_accuracy"] == pytest.approx(mean)
    assert 0 <= report["ece"] <= 1


@pytest.mark.slow
def test_classes_are_matched_by_name_whatever_the_folders_hold(file, unseen, tmp_path, evaluate):
    """A subset of the classes, which shifts every number that goes by order."""
    whole = evaluate(file, unseen)
    for label in ("house", "star"):
        shutil.copytree(unseen / label, tmp_path / "some" / label)
    some = evaluate(file, tmp_path / "some")
    assert some["classes"] == whole["classes"] and "cat" in some["classes"]
    assert set(some["per_class"]) == {"house", "star"}
    for index, name in enumerate(whole["classes"]):
        assert some["confusion"][index] == ([0, 0, 0] if name == "cat" else whole["confusion"][index])
    assert some["n"] == 10


def test_a_class_that_was_not_learned_is_an_error(file, unseen, tmp_path, evaluate):
    shutil.copytree(unseen, tmp_path / "more")
    (tmp_path / "more" / "cat").rename(tmp_path / "more" / "tiger")
    with pytest.raises(FewshotError, match="'tiger'") as caught:
        evaluate(file, tmp_path / "more")
    assert "cat, house, star" in caught.value.hint


@pytest.mark.slow
def test_images_that_were_learned_from_are_counted(file, drawn, unseen, tmp_path, evaluate):
    assert evaluate(file, unseen)["learned_from"] == 0
    assert evaluate(file, drawn)["learned_from"] == 12
    shutil.copytree(unseen, tmp_path / "mixed")
    shutil.copy(sorted((drawn / "cat").iterdir())[0], tmp_path / "mixed" / "cat" / "under another name.jpg")
    assert evaluate(file, tmp_path / "mixed")["learned_from"] == 1


@pytest.mark.slow
def test_unreadable_files_are_reported_and_not_counted(file, unseen, tmp_path, evaluate):
    shutil.copytree(unseen, tmp_path / "more")
    (tmp_path / "more" / "cat" / "cut.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "more" / "loose.png").write_bytes(b"")
    report = evaluate(file, tmp_path / "more")
    assert report["n"] == 15
    assert {Path(item["path"]).name for item in report["skipped"]} == {"cut.jpg", "loose.png"}
    assert {
        k: v for k, v in evaluate(file, unseen).items() if k in ("accuracy", "confusion", "data")
    }.items() <= report.items()


def test_a_folder_of_nothing_readable_is_an_error(file, tmp_path, evaluate):
    for label in ("cat", "star"):
        (tmp_path / "bad" / label).mkdir(parents=True)
        (tmp_path / "bad" / label / "x.jpg").touch()
    with pytest.raises(FewshotError, match=r"No image in .* can be read") as caught:
        evaluate(file, tmp_path / "bad")
    assert "doctor" in caught.value.hint


@pytest.mark.slow
def test_a_corrupt_expectation_stays_with_the_file(file, drawn, evaluate, learn, tmp_path):
    learned = learn(drawn, tmp_path / "y.fewshot")
    assert evaluate(tmp_path / "y.fewshot", drawn)["expected_accuracy"] == learned["expected_accuracy"]
