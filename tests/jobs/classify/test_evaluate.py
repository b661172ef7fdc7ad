import shutil
from pathlib import Path

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.classify import predict as predicting
from fewshot_cli.jobs.classify.evaluate import evaluate as job
from fewshot_cli.jobs.classify.prediction.inputs import Promises
from fewshot_cli.jobs.classify.prediction.rows import RowSettings
from fewshot_cli.reports.terminal.evaluate import promises as promises_shown
from fewshot_cli.results import KeptPromise
from tests.jobs.conftest import context


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


@pytest.mark.slow
def test_what_came_of_promises_follows_from_the_predictions(drawn_many, unseen, tmp_path, learn, source):
    """And pictures of none of the classes are asked about, too, where somebody says what may be refused."""
    file, folder = tmp_path / "x.fewshot", tmp_path / "labelled"
    learn(drawn_many, file, "cosine-ridge")
    shutil.copytree(unseen, folder)
    shutil.copytree(unseen / "cat", folder / "_unknown")
    found, plain = job(file, folder, context(source), Promises(0.2, 0.8)), job(file, unseen, context(source))
    assert (found.accuracy, found.confusion, found.n) == (plain.accuracy, plain.confusion, 15)
    assert plain.refused is plain.covered is None and "refused" not in plain.report()

    def rows(promises: Promises):
        return predicting.predict([file], [unseen], context(source), how=RowSettings(promises=promises))

    inside = [Path(row.path).parent.name in row.labels for row in rows(Promises(None, 0.8))]
    assert found.covered == KeptPromise(0.8, sum(inside) / 15, found.covered.low, found.covered.high, 15)
    assert found.set_size == sum(len(row.labels) for row in rows(Promises(None, 0.8))) / 15
    refused = [(Path(row.path).parent.name, row.label == "unknown") for row in rows(Promises(0.2))]
    shares = sum(no for _, no in refused) / 15, sum(no for name, no in refused if name == "cat") / 5
    assert (found.refused.share, found.refused.promised, found.refused.n) == (shares[0], 0.2, 15)
    negatives = found.refused_unknown
    assert (negatives.share, negatives.promised, negatives.n) == (shares[1], None, 5)
    shown = promises_shown(found)
    assert [what for what, _ in shown] == ["refused", "unknown", "label sets"]
    assert "20.0 % was promised" in shown[0][1] and "80.0 % was promised" in shown[2][1]


def test_pictures_of_nothing_need_a_share_to_refuse(file, unseen, tmp_path, evaluate):
    shutil.copytree(unseen, tmp_path / "more")
    shutil.copytree(unseen / "cat", tmp_path / "more" / "_unknown")
    with pytest.raises(FewshotError, match="'unknown'") as caught:
        evaluate(file, tmp_path / "more")
    assert "--refuse" in caught.value.hint


@pytest.fixture(scope="module")
def drawn_many(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    write_folder(folder, ("cat", "house", "star"), 10, seed=0, size=32)
    return folder
