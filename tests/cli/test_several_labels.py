"""Images with several labels on the command line: learned, told, evaluated, and refused where one label is needed."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_any_delta_file, read_delta_file, write_delta_file
from fewshot_cli.images.drawing import draw

GROUPS = ("cat", "house", "star", "cat+house", "house+star", "cat+star")


def write_pairs(root: Path, seed: int, images: int = 3) -> Path:
    """Drawings of one thing, or of two side by side, in folders called as all that is in them."""
    for group in GROUPS:
        (root / group).mkdir(parents=True)
        for i in range(images):
            canvas = Image.new("RGB", (96, 96), "white")
            for place, name in enumerate(group.split("+")):
                canvas.paste(draw(name, seed=seed + i, size=48), (48 * place, 24))
            canvas.save(root / group / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", seed=0)


@pytest.fixture
def marked(fewshot, pairs, tiny, tmp_path) -> Path:
    path = tmp_path / "x.fewshot"
    result = fewshot("adapt", pairs, "-o", path, *tiny)
    assert result.exit_code == 0, result.output
    assert "'cat+house' has the labels cat and house" in result.stdout and "each label" in result.stdout
    return path


def test_what_is_written_has_a_threshold_for_each_class(fewshot, marked):
    file = read_any_delta_file(marked)
    assert file.header.classes == ("cat", "house", "star") and file.stored.version == 4
    assert file.thresholds is not None and all(0 < share < 1 for share in file.thresholds)
    with pytest.raises(FewshotError, match="several labels"):
        read_delta_file(marked)
    shown = fewshot("inspect", marked)
    assert "several an image" in shown.stdout and "cat " in shown.stdout
    report = json.loads(fewshot("inspect", marked, "--json").stdout)
    assert tuple(report["thresholds"].values()) == file.thresholds


def test_adapt_says_what_to_expect(fewshot, pairs, tiny, tmp_path):
    result = fewshot("adapt", pairs, "-o", tmp_path / "x.fewshot", *tiny, "--recipe", "ridge", "--json")
    report = json.loads(result.stdout)
    assert report["method"] == "ridge" and report["per_class"]["cat"]["n"] == 9
    expected, found = report["expected_accuracy"], report["several_labels"]
    assert expected["low"] <= expected["mean"] <= expected["high"] and "leave-one-out" in expected["how"]
    assert 0 < found["macro_f1"] <= 1 and set(found["per_class"]) == {"cat", "house", "star"}
    assert found["per_class"]["cat"].keys() == {"n", "precision", "recall", "f1", "threshold"}


def test_predict_lists_all_labels(fewshot, marked, weights, pairs, tmp_path):
    wanted = ["--weights", weights, "--json", "--probabilities"]
    report = json.loads(fewshot("predict", marked, pairs, *wanted).stdout)
    thresholds = dict(zip(report["classes"], read_any_delta_file(marked).thresholds, strict=True))
    rows = report["predictions"]
    for row in rows:
        above = [name for name, share in row["probabilities"].items() if share > thresholds[name]]
        assert row["labels"] == above and row["label"] == "+".join(above)
        just_these = 1.0
        for name, share in row["probabilities"].items():
            just_these *= share if name in above else 1 - share
        assert row["probability"] == pytest.approx(just_these, abs=1e-4)
    assert len({row["label"] for row in rows}) > 2
    assert fewshot("predict", marked, pairs, "--weights", weights, "--csv", tmp_path / "x.csv").exit_code == 0
    with (tmp_path / "x.csv").open(encoding="utf-8-sig") as file:
        assert [row["label"] for row in csv.DictReader(file)] == [row["label"] for row in rows]
    assert "+" in fewshot("predict", marked, pairs, "--weights", weights).stdout


@pytest.mark.slow
def test_eval_counts_what_predict_says(fewshot, marked, weights, tmp_path):
    more = write_pairs(tmp_path / "more", seed=50)
    rows = json.loads(fewshot("predict", marked, more, "--weights", weights, "--json").stdout)["predictions"]
    truth = [set(Path(row["path"]).parent.name.split("+")) for row in rows]
    result = fewshot("eval", marked, more, "--weights", weights, "--json")
    report = json.loads(result.stdout)
    assert report["n"] == 18
    exact = sum(set(row["labels"]) == labels for row, labels in zip(rows, truth, strict=True))
    assert report["accuracy"] == pytest.approx(exact / 18)
    for name, found in report["per_class"].items():
        given = [name in row["labels"] for row in rows]
        has = [name in labels for labels in truth]
        both = sum(a and b for a, b in zip(given, has, strict=True))
        assert found["recall"] == pytest.approx(both / sum(has)) and found["n"] == sum(has)
        assert found["precision"] == (pytest.approx(both / sum(given)) if any(given) else None)
    assert json.loads(Path(report["record"]).read_text(encoding="utf-8"))["macro_f1"] == report["macro_f1"]
    shown = fewshot("eval", marked, more, "--weights", weights)
    assert "exact match" in shown.stdout and "macro F1" in shown.stdout
    below = fewshot("eval", marked, more, "--weights", weights, "--threshold", 1)
    assert below.exit_code == (3 if report["accuracy"] < 1 else 0)


def test_eval_refuses_a_label_that_was_not_taught(fewshot, marked, weights, tmp_path):
    more = write_pairs(tmp_path / "more", seed=50, images=1)
    (more / "cat+star").rename(more / "cat+dog")
    result = fewshot("eval", marked, more, "--weights", weights)
    assert result.exit_code == 2 and "'dog'" in result.stderr


@pytest.mark.parametrize("recipe", ["bitfit", "protonet", "logistic", "tim", "bitfit-ridge"])
def test_a_recipe_of_one_label_is_refused(fewshot, pairs, tiny, tmp_path, recipe):
    result = fewshot("adapt", pairs, "-o", tmp_path / "x.fewshot", *tiny, "--recipe", recipe)
    assert result.exit_code == 2 and "several labels" in result.stderr and "--recipe ridge" in result.stderr
    assert not (tmp_path / "x.fewshot").exists()


def test_each_name_may_be_one_class(fewshot, pairs, tiny, tmp_path):
    words = ["adapt", pairs, "-o", tmp_path / "x.fewshot", *tiny, "--recipe", "ridge", "--json"]
    report = json.loads(fewshot(*words, "--labels", "one").stdout)
    assert report["classes"] == sorted(GROUPS) and "several_labels" not in report
    assert read_delta_file(tmp_path / "x.fewshot").thresholds is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("export", "{file}", "-o", "{out}", "--format", "safetensors"),
        ("export", "{file}", "-o", "{out}", "--format", "onnx"),
        ("compose", "{file}", "{file}", "-o", "{out}"),
        ("add-class", "{file}", "{pairs}", "-o", "{out}"),
        ("remove-class", "{file}", "cat", "-o", "{out}"),
        ("rename-class", "{file}", "cat", "dog", "-o", "{out}"),
        ("next", "{file}", "{pairs}"),
        ("predict", "{file}", "{pairs}", "--sort-into", "{out}"),
        ("eval", "{file}", "{pairs}", "--report", "{out}.html"),
    ],
)
def test_what_needs_one_label_is_refused(fewshot, marked, pairs, tmp_path, weights, words):
    out = tmp_path / "out"
    filled = [word.format(file=marked, out=out, pairs=pairs) for word in words]
    more = ["--weights", weights] if words[0] in ("predict", "eval") else []
    result = fewshot(*filled, *more)
    assert result.exit_code == 2 and "several" in result.stderr
    assert not out.exists()


def test_verify_takes_it(fewshot, marked, weights):
    assert fewshot("verify", marked, "--weights", weights).exit_code == 0


def test_doctor_says_how_names_are_read(fewshot, pairs):
    assert "'cat+house' has the labels cat and house" in fewshot("doctor", pairs).stdout


@pytest.mark.parametrize("thresholds", [(0.5, 0.5), (0.5, 0.5, 1.0), (0.5, 0.5, 0.0)])
def test_a_file_of_other_thresholds_is_refused(marked, tmp_path, thresholds):
    file = read_any_delta_file(marked)
    with pytest.raises(ValueError, match="threshold"):
        write_delta_file(tmp_path / "y", file.header, file.delta, file.head, thresholds=thresholds)


def test_the_same_thresholds_come_back(marked, tmp_path):
    file = read_any_delta_file(marked)
    write_delta_file(
        tmp_path / "y", file.header, file.delta, file.head, "float16", file.stored.head, thresholds=(0.1, 0.2, 0.3)
    )
    again = read_any_delta_file(tmp_path / "y")
    assert again.thresholds == (0.1, 0.2, 0.3) and again.digest != file.digest
    assert torch.equal(again.head.weight, file.head.weight)
