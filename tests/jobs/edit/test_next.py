import shutil

import pytest
import torch

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit.next_ import next_
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")


@pytest.fixture
def asked(source):
    def asked(file, folder, count=5):
        return next_(file, folder, count, JobContext(source, CPU, NoCache(), NoProgress())).report()

    return asked


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ridge", "logistic", "bitfit"])
def test_pictures_are_named_by_what_a_label_teaches(photos, unseen, learn, asked, predict, tmp_path, recipe):
    quick = ("method.tuning.optim.steps=2", "method.tuning.optim.epochs=0") if recipe == "bitfit" else ()
    learn(photos, tmp_path / "x.fewshot", recipe, *quick, keep_support=True)
    report = asked(tmp_path / "x.fewshot", unseen)
    assert report["images"] == 15 and len(report["pictures"]) == 5
    assert report["pictures"][0]["worth"] == 1
    answers = {row["path"]: row for row in predict(tmp_path / "x.fewshot", unseen)["predictions"]}
    for row in report["pictures"]:
        answer = answers[row["path"]]
        assert row["label"] == answer["label"] and row["probability"] == pytest.approx(answer["probability"], abs=1e-5)


def test_what_is_known_or_there_twice_is_not_asked_about(photos, learn, asked, tmp_path):
    learn(photos, tmp_path / "x.fewshot", keep_support=True)
    write_folder(tmp_path / "new", ("fish",), 2, seed=3, size=64)
    new = sorted((tmp_path / "new").rglob("*.jpg"))
    shutil.copy(new[0], tmp_path / "new" / "twin.jpg")
    shutil.copytree(photos / "cat", tmp_path / "new" / "cat")
    (tmp_path / "new" / "bad.jpg").write_bytes(b"no picture")
    report = asked(tmp_path / "x.fewshot", tmp_path / "new")
    assert {row["path"] for row in report["pictures"]} == {str(path) for path in new}
    assert report["images"] == 2 and report["known"] == 5
    assert [row["path"] for row in report["skipped"]] == [str(tmp_path / "new" / "bad.jpg")]


@pytest.mark.slow
def test_what_can_not_be_done_is_a_sentence(photos, learn, asked, tmp_path):
    learn(photos, tmp_path / "x.fewshot", keep_support=True)
    learn(photos, tmp_path / "plain.fewshot")
    (tmp_path / "empty").mkdir()
    for file, folder, problem in (
        ("plain.fewshot", photos, "doesn't keep the features"),
        ("x.fewshot", photos, "No picture in .* is new"),
        ("x.fewshot", tmp_path / "empty", "no image in"),
        ("x.fewshot", tmp_path / "nowhere", "no folder"),
    ):
        with pytest.raises(FewshotError, match=problem):
            asked(tmp_path / file, folder)
