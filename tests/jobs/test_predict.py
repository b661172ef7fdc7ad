import csv
import io
import shutil
from pathlib import Path

import pytest
import torch

from fewshot_cli.errors import FewshotError
from fewshot_cli.files.cache import FeatureCache
from fewshot_cli.files.delta_file import read_delta_file
from fewshot_cli.images.decode import load
from fewshot_cli.reports.predicting import as_csv


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


def test_an_image_gets_the_same_answer_alone_and_among_others(file, drawn, predict):
    together = predict(file, drawn)["predictions"]
    for row, path in zip(together, sorted(drawn.glob("*/*")), strict=True):
        assert predict(file, path)["predictions"] == [row]


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
