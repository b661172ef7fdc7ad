"""`fewshot predict` where there is nothing to label leaves with 3, and says so."""

import json


def test_an_empty_folder(fewshot, file, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    result = fewshot("predict", file, tmp_path / "empty", "--weights", weights, "--csv", tmp_path / "x.csv", "--json")
    assert result.exit_code == 3 and "No image in" in result.stderr and "is there" in result.stderr
    assert json.loads(result.stdout)["predictions"] == []
    assert (tmp_path / "x.csv").read_text().splitlines() == ["path,label,probability,error"]


def test_nothing_readable(fewshot, file, weights, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    asked = ["predict", file, tmp_path / "a.jpg", tmp_path / "none.jpg", "--weights", weights]
    result = fewshot(*asked, "--csv", tmp_path / "x.csv", "--json")
    assert result.exit_code == 3 and "every row has its error" in result.stderr
    rows = json.loads(result.stdout)["predictions"]
    assert len(rows) == 2 and all(row["error"] for row in rows)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 3


def test_one_that_can_be_read_is_enough(fewshot, file, drawn, weights, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    picture = sorted((drawn / "cat").iterdir())[0]
    assert fewshot("predict", file, tmp_path / "a.jpg", picture, "--weights", weights).exit_code == 0
