"""`fewshot doctor --learn`, and the line of `adapt` that points to it."""

import json
import shutil

import pytest

from fewshot_cli.images.drawing import write_folder


@pytest.mark.parametrize("words", [["--no-cache"], ["--backbone", "test_vit"], ["--offline"], ["--device", "cpu"]])
def test_what_is_of_learning_does_nothing_without_it(fewshot, drawn, words):
    result = fewshot("doctor", drawn, *words)
    assert result.exit_code == 2 and f"{words[0]} is of --learn" in result.stderr


@pytest.mark.slow
def test_a_wrong_label_is_told_of_by_both(fewshot, tmp_path):
    folder = tmp_path / "things"
    write_folder(folder, ("cat", "flower", "star"), 6, seed=0, size=128)
    shutil.move(sorted((folder / "star").iterdir())[0], folder / "cat" / "moved.jpg")
    told = fewshot("doctor", folder, "--learn", "--image-size", "96")
    assert told.exit_code == 0, told.output
    assert "labels that are likely wrong (1)" in told.stdout and "moved.jpg" in told.stdout
    assert "looks more like 'star'" in told.stdout and "looks like: " in told.stdout
    report = json.loads(fewshot("doctor", folder, "--learn", "--image-size", "96", "--json").stdout)
    assert report["learned"][0]["kind"] == "label" and report["learned"][0]["classes"] == ["cat", "star"]
    learned = fewshot("adapt", folder, "-o", tmp_path / "x.fewshot", "--recipe", "ridge", "--image-size", "96")
    assert "1 label is likely wrong" in learned.stdout and "doctor" in learned.stdout and "--learn" in learned.stdout
