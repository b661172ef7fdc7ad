import csv
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images import image_bytes
from fewshot_cli.images.decode import load
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.image_bytes import content_hash
from fewshot_cli.images.image_ref import Content
from fewshot_cli.jobs.classify import predict as predicting
from fewshot_cli.jobs.classify.prediction.extractors import swapping_extractors
from fewshot_cli.jobs.classify.prediction.inputs import files_and_images
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.reports.terminal.predict import Rows
from fewshot_cli.results import Prediction
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

CPU = torch.device("cpu")


def as_csv(report: dict[str, Any]) -> str:
    text = io.StringIO()
    Rows(text, "files" in report).add([Prediction(**row) for row in report["predictions"]])
    return text.getvalue()


@pytest.fixture
def file(drawn, tmp_path, learn):
    learn(drawn, tmp_path / "x.fewshot")
    return tmp_path / "x.fewshot"


def test_there_is_a_row_for_every_input_in_order(file, photos, tmp_path, predict):
    cats, stars = sorted((photos / "cat").iterdir()), sorted((photos / "star").iterdir())
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(cats[0].read_bytes()[:500])
    (tmp_path / "nothing").mkdir()
    inputs = [stars[1], tmp_path / "none.jpg", photos / "cat", tmp_path / "note.txt", tmp_path / "nothing", stars[0]]
    report = predict(file, *inputs, tmp_path / "cut.jpg")
    expected = [stars[1], tmp_path / "none.jpg", *cats, tmp_path / "note.txt", stars[0], tmp_path / "cut.jpg"]
    rows = report["predictions"]
    assert [row["path"] for row in rows] == [str(path) for path in expected]
    bad = {str(tmp_path / name) for name in ("none.jpg", "note.txt", "cut.jpg")}
    for row in rows:
        assert set(row) == {"path", "label", "probability", "top", "error"}
        assert (row["error"] is not None) == (row["path"] in bad) == (row["label"] is None)
    assert report["images"] == len(rows) - len(bad)


def test_a_row_says_what_the_head_makes_of_the_features(file, drawn, predict, vit):
    found = read_delta_file(file)
    for row in predict(file, drawn)["predictions"][::5]:
        picture = torch.from_numpy(load(Path(row["path"]), vit.preprocessing))
        shares = found.head.logits(vit.frozen_features(picture[None])).softmax(1)[0]
        order = shares.argsort(descending=True).tolist()
        assert [label for label, _ in row["top"]] == [found.header.classes[i] for i in order]
        assert [share for _, share in row["top"]] == pytest.approx([shares[i].item() for i in order], abs=1e-4)
        assert row["top"][0] == [row["label"], row["probability"]]


@pytest.mark.slow
def test_an_image_gets_the_same_answer_alone_and_among_others(file, drawn, predict):
    """To rounding: how many images go through at once decides the last bits, on some processors."""
    together = predict(file, drawn)["predictions"]
    for row, path in zip(together, sorted(drawn.glob("*/*")), strict=True):
        (alone,) = predict(file, path)["predictions"]
        assert (alone["path"], alone["label"], alone["error"]) == (row["path"], row["label"], row["error"])
        assert dict(alone["top"]) == pytest.approx(dict(row["top"]), abs=2e-6)


def test_a_warm_cache_changes_nothing(file, drawn, tmp_path, predict, passes):
    cache = FeatureCache(tmp_path / "features.sqlite")
    cold = predict(file, drawn, cache=cache)["predictions"]
    passes.clear()
    assert predict(file, drawn, cache=cache)["predictions"] == cold
    assert sum(passes) < 2  # a model at a size of its own is tried on one blank picture


def test_copies_all_get_their_row(file, photos, predict):
    path = sorted((photos / "cat").iterdir())[0]
    shutil.copy(path, photos / "cat" / "again.jpg")
    rows = predict(file, photos / "cat")["predictions"]
    assert len(rows) == 5
    one, two = (row for row in rows if row["path"] in (str(path), str(photos / "cat" / "again.jpg")))
    assert one["top"] == two["top"]


def test_only_unreadable_files_are_only_rows_with_errors(file, tmp_path, predict):
    report = predict(file, tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert report["images"] == 0
    assert all(row["error"] for row in report["predictions"]) and len(report["predictions"]) == 2


def test_a_file_that_is_no_delta_file_is_an_error(drawn, tmp_path, predict):
    with pytest.raises(FewshotError, match="not a delta file"):
        predict(sorted(drawn.glob("*/*"))[0], drawn)


def test_csv_says_the_same_and_any_name_survives(file, drawn, tmp_path, predict):
    odd = tmp_path / 'a, "b"\nc é قط.jpg'
    shutil.copy(sorted(drawn.glob("*/*"))[0], odd)
    report = predict(file, odd, tmp_path / "none.jpg")
    rows = list(csv.DictReader(io.StringIO(as_csv(report), newline="")))
    assert [row["path"] for row in rows] == [str(odd), str(tmp_path / "none.jpg")]
    assert rows[0]["label"] == report["predictions"][0]["label"] and rows[0]["error"] == ""
    assert float(rows[0]["probability"]) == report["predictions"][0]["probability"]
    assert (rows[1]["label"], rows[1]["probability"]) == ("", "") and rows[1]["error"]


@pytest.mark.parametrize("name", ['=HYPERLINK("http://a","b")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_name_is_no_formula_in_a_spreadsheet(name):
    row = {"path": f"{name}.jpg", "label": name, "probability": 0.5, "top": (), "error": None}
    text = as_csv({"predictions": [row, {**row, "path": "a=b.jpg", "label": "cat -1"}]})
    first, second = list(csv.DictReader(io.StringIO(text, newline="")))
    assert (first["path"], first["label"], first["probability"]) == (f"'{name}.jpg", f"'{name}", "0.5")
    assert (second["path"], second["label"]) == ("a=b.jpg", "cat -1")


@pytest.mark.slow
def test_rows_come_before_all_images_are_read_and_are_not_kept(file, tmp_path, source, monkeypatch):
    write_folder(tmp_path / "many", ("cat", "key", "fish"), 60, seed=0, size=32)
    read: list[int] = []
    read_at_first: list[int] = []
    original = image_bytes.file_bytes
    monkeypatch.setattr(image_bytes, "file_bytes", lambda path, most: read.append(1) or original(path, most))
    rows: list[Prediction] = []

    def write(some):
        read_at_first.append(len(read))
        rows.extend(some)

    context = JobContext(source, CPU, NoCache(), NoProgress())
    result = predicting.predict([file], [tmp_path / "many"], context, write)
    assert "predictions" not in result.report() and result.images == 180 and result.unread == 0
    assert read_at_first[0] <= 128 and len(read_at_first) == 3
    assert tuple(rows) == predicting.predict([file], [tmp_path / "many"], context).predictions


# --- several classifiers on one base ----------------------------------------------------------------------------------


@pytest.fixture
def several(drawn, tmp_path, learn):
    """Delta files with changes of every form, and two that leave the backbone as it is, by recipe; on this backbone."""

    def several(backbone: str) -> dict[str, Path]:
        recipes = ("shira", "bitfit", "ridge", "lora", "protonet")
        if backbone == "test_efficientnet":
            recipes = ("shira", "bitfit", "ridge", "protonet", "finetune")
        for recipe in recipes:
            changes = () if recipe in ("ridge", "protonet") else ("method.tuning.optim.steps=2",)
            learn(drawn, tmp_path / f"{recipe}.fewshot", recipe, *changes, backbone=backbone)
        return {recipe: tmp_path / f"{recipe}.fewshot" for recipe in recipes}

    return several


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
def test_several_files_answer_as_each_alone(backbone, several, unseen, predict, weights, tmp_path):
    files = several(backbone)
    where = Source(weights[backbone], offline=True)
    report = predict(list(files.values()), unseen, tmp_path / "none.jpg", where=where)
    assert report["files"] == [{"file": str(path), "classes": ["cat", "house", "star"]} for path in files.values()]
    assert report["images"] == 15 and len(report["predictions"]) == 16 * len(files)
    for number, path in enumerate(files.values()):
        rows = [
            row | {"file": str(path)}
            for row in predict(path, unseen, tmp_path / "none.jpg", where=where)["predictions"]
        ]
        together = report["predictions"][number :: len(files)]
        assert [row["label"] for row in together] == [row["label"] for row in rows]
        assert [row["path"] for row in together] == [row["path"] for row in rows]
        assert [row["error"] for row in together] == [row["error"] for row in rows]
        for row, alone in zip(together, rows, strict=True):
            assert row["file"] == alone["file"] and dict(row["top"]) == pytest.approx(dict(alone["top"]), abs=2e-6)


@pytest.mark.slow
def test_eval_and_predict_see_the_same(several, unseen, weights, tmp_path):
    """One merges copies of weights, the other swaps in place; both share the cache of features."""
    for backbone in ("test_vit", "test_efficientnet"):
        paths = sorted(unseen.glob("*/*"))
        for path in several(backbone).values():
            model = load_model(path, Source(weights[backbone], offline=True), CPU)
            pictures = torch.from_numpy(np.stack([load(path, model.backbone.preprocessing) for path in paths[:8]]))
            merged = model.model.features(pictures)
            extractors = swapping_extractors(model.backbone, {path.name: model.model})
            torch.testing.assert_close(next(iter(extractors.values()))(pictures), merged, msg=path.name)


@pytest.mark.slow
def test_every_picture_is_decoded_once_and_seen_once_by_each_change(
    several, unseen, predict, passes, monkeypatch, tmp_path
):
    files = several("test_vit")
    decoded = []
    original = Content.picture
    monkeypatch.setattr(Content, "picture", lambda one, how: original(decoded.append(one.hash) or one, how))
    cache = FeatureCache(tmp_path / "features.sqlite")
    predict(files["shira"], unseen / "cat", cache=cache)
    decoded.clear()
    passes.clear()
    predict(list(files.values()), unseen, cache=cache)
    assert sorted(decoded) == sorted(content_hash(path) for path in unseen.glob("*/*"))
    chunk = max(passes)
    extractors = 4  # ridge and protonet share the frozen features
    assert len([n for n in passes if n > 1]) == extractors * -(-15 // chunk) and chunk >= 15
    passes.clear()
    predict(list(files.values()), unseen, cache=cache)
    assert sum(passes) < 2


@pytest.mark.slow
def test_files_on_different_bases_are_refused(drawn, tmp_path, learn, predict):
    learn(drawn, tmp_path / "vit.fewshot")
    learn(drawn, tmp_path / "conv.fewshot", backbone="test_efficientnet")
    with pytest.raises(FewshotError, match=r"vit.fewshot and .*conv.fewshot are on different bases"):
        predict([tmp_path / "vit.fewshot", tmp_path / "conv.fewshot"], drawn)


def test_delta_files_are_told_from_images_by_content(file, drawn, tmp_path, random_bank, vit):
    (tmp_path / "picture.fewshot").write_bytes(sorted(drawn.glob("*/*"))[0].read_bytes())
    (tmp_path / "classifier.jpg").write_bytes(file.read_bytes())
    bank = random_bank(tmp_path / "x.bank", vit)
    given = [file, drawn, tmp_path / "picture.fewshot", tmp_path / "classifier.jpg", tmp_path / "none.jpg", bank]
    files, images = files_and_images(given)
    assert files == [file, tmp_path / "classifier.jpg", bank]
    assert images == [drawn, tmp_path / "picture.fewshot", tmp_path / "none.jpg"]
    assert files_and_images([drawn, tmp_path]) == ([drawn], [tmp_path])
    with pytest.raises(FewshotError, match="No image"):
        files_and_images([file, tmp_path / "classifier.jpg"])


@pytest.mark.slow
def test_rows_of_several_files_name_them_in_csv(file, drawn, tmp_path, learn, predict):
    learn(drawn, tmp_path / "y.fewshot", "protonet")
    report = predict([file, tmp_path / "y.fewshot"], drawn / "cat")
    rows = list(csv.DictReader(io.StringIO(as_csv(report), newline="")))
    assert [row["file"] for row in rows] == [str(file), str(tmp_path / "y.fewshot")] * 4
    assert [(row["path"], row["label"]) for row in rows] == [(r["path"], r["label"]) for r in report["predictions"]]
