"""Growing and shrinking a classifier on the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.storage.one_writer import one_writer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kept(fewshot, drawn, tiny, tmp_path):
    path = tmp_path / "x.fewshot"
    result = fewshot("adapt", drawn, "-o", path, *tiny, "--method", "ridge", "--keep-support")
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.slow
def test_a_class_comes_is_renamed_and_goes(fewshot, kept, weights, tmp_path):
    write_folder(tmp_path / "new", ("fish",), 3, seed=8, size=64)
    added = fewshot("add-class", kept, tmp_path / "new" / "fish", "--in-place", "--weights", weights)
    assert added.exit_code == 0, added.output
    for said in ("fish (3 images)", "old classes", "before", "after", "4: cat, fish, house, star", "expect"):
        assert said in added.stdout
    renamed = fewshot("rename-class", kept, "fish", "trout", "-o", tmp_path / "y.fewshot")
    assert renamed.exit_code == 0 and "fish is now trout" in renamed.stdout
    gone = fewshot("remove-class", tmp_path / "y.fewshot", "trout", "--in-place", "--json")
    report = json.loads(gone.stdout)
    assert report["removed"] == {"trout": 3} and report["in_place"]
    assert 0 <= report["accuracy_before"] <= 1 and 0 <= report["accuracy_after"] <= 1
    assert read_delta_file(tmp_path / "y.fewshot").header.classes == ("cat", "house", "star")
    shown = fewshot("inspect", tmp_path / "y.fewshot")
    assert "comes from" in shown.stdout


def test_answers_that_somebody_corrected_are_learned_from(fewshot, kept, weights, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "more")
    for path in (tmp_path / "more").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"\0")  # another file of the same picture
    answers = tmp_path / "answers.csv"
    assert fewshot("predict", kept, tmp_path / "more", "--csv", answers, "--weights", weights).exit_code == 0
    result = fewshot("correct", kept, answers, "--in-place", "--weights", weights)
    assert result.exit_code == 2 and "no truth" in result.stderr and "column `correct`" in result.stderr
    header, *rows = answers.read_text(encoding="utf-8").splitlines()
    rows = [f"{row},{'cat' if i == 0 else ''}" for i, row in enumerate(rows)]
    answers.write_text("\n".join([f"{header},correct", *rows]), encoding="utf-8")
    result = fewshot("correct", kept, answers, "--in-place", "--weights", weights, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["learned"] == 1


@pytest.mark.parametrize("words", [[], ["--in-place", "-o", "y.fewshot"]])
def test_where_it_goes_is_said_once(fewshot, file, words):
    result = fewshot("rename-class", file, "cat", "zebra", *words)
    assert result.exit_code == 2 and "--in-place" in result.stderr and "-o FILE" in result.stderr
    assert read_delta_file(file).header.classes == ("cat", "house", "star")


def test_a_file_without_features_is_refused_in_a_sentence(fewshot, file, tmp_path):
    result = fewshot("remove-class", file, "cat", "-o", tmp_path / "y.fewshot")
    assert result.exit_code == 2 and "--keep-support" in result.stderr
    assert not (tmp_path / "y.fewshot").exists()


def test_pictures_to_label_next_are_a_list_that_is_learned_from(fewshot, kept, weights, tmp_path):
    write_folder(tmp_path / "pool", ("cat", "star"), 4, seed=8, size=64)
    listed = tmp_path / "list.csv"
    shown = fewshot("next", kept, tmp_path / "pool", "-n", "3", "--csv", listed, "--weights", weights)
    assert shown.exit_code == 0, shown.output
    assert "label next" in shown.stdout and f"fewshot correct {kept} {listed}" in shown.stdout
    header, *rows = listed.read_text(encoding="utf-8").splitlines()
    assert header == "path,label,probability,correct" and len(rows) == 3 and all(row.endswith(",") for row in rows)
    listed.write_text("\n".join([header, *(row + ("cat" if "/cat/" in row else "star") for row in rows)]))
    learned = fewshot("correct", kept, listed, "--in-place", "--weights", weights, "--json")
    assert learned.exit_code == 0 and json.loads(learned.stdout)["learned"] == 3


def test_negatives_that_are_added_are_the_class_unknown(fewshot, kept, weights, tmp_path):
    write_folder(tmp_path / "more", ("fish",), 3, seed=8, size=64)
    (tmp_path / "more" / "fish").rename(tmp_path / "more" / "_unknown")
    for folder in (tmp_path / "more" / "_unknown", tmp_path / "more"):
        added = fewshot("add-class", kept, folder, "-o", tmp_path / "y.fewshot", "--weights", weights, "--json")
        assert json.loads(added.stdout)["added"] == {"unknown": 3}
    assert fewshot("rename-class", kept, "cat", "_unknown", "-o", tmp_path / "z.fewshot").exit_code == 0
    assert read_delta_file(tmp_path / "z.fewshot").header.classes == ("house", "star", "unknown")
    write_folder(tmp_path / "new", ("fish",), 1, seed=9, size=64)
    (picture,) = (tmp_path / "new" / "fish").iterdir()
    (tmp_path / "said.csv").write_text(f"path,correct\n{picture},_unknown\n", encoding="utf-8")
    words = ["correct", tmp_path / "y.fewshot", tmp_path / "said.csv", "--in-place", "--weights", weights]
    assert fewshot(*words).exit_code == 0
    assert read_delta_file(tmp_path / "y.fewshot").support.labels.tolist().count(3) == 4


def test_of_two_changes_at_once_none_is_lost(fewshot, kept, weights, drawn, tmp_path):
    before = kept.read_bytes()
    (tmp_path / "said.csv").write_text("path,correct\nx.jpg,cat\n", encoding="utf-8")
    with one_writer(kept):
        for words in (
            ["add-class", kept, drawn / "cat", "--name", "dog", "--weights", weights],
            ["remove-class", kept, "cat"],
            ["rename-class", kept, "cat", "dog"],
            ["correct", kept, tmp_path / "said.csv", "--weights", weights],
        ):
            refused = fewshot(*words, "--in-place")
            assert refused.exit_code == 2 and "Another command is writing x.fewshot" in refused.stderr
    assert kept.read_bytes() == before and not [*tmp_path.glob("*.lock")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add-class", "FILE", "mixed"], "has both images"),
        (["add-class", "FILE", "holds-empty"], "There is no image in"),
        (["correct", "FILE", "answers.csv"], "are no truth"),
        (["rename-class", "FILE", "cat", "star"], "has a class 'star' already"),
        (["rename-class", "FILE", "cat", " "], "can't be called"),
        (["remove-class", "TWO", "star"], "nothing to tell apart"),
        (["remove-class", "STEPS", "star"], "is found step by step, and is no formula"),
    ],
)
def test_what_can_not_be_changed_is_told_before_torch_is_imported(fewshot, kept, drawn, tiny, tmp_path, words, said):
    shutil.copytree(drawn / "cat", tmp_path / "mixed")
    shutil.copytree(drawn / "cat", tmp_path / "mixed" / "inside")
    shutil.copytree(drawn / "cat", tmp_path / "holds-empty" / "one")
    (tmp_path / "holds-empty" / "two").mkdir()
    (tmp_path / "answers.csv").write_text("path,label,probability\nx.jpg,cat,1\n", encoding="utf-8")
    assert fewshot("remove-class", kept, "cat", "-o", tmp_path / "TWO").exit_code == 0
    if "STEPS" in words:
        made = fewshot("adapt", drawn, "-o", tmp_path / "STEPS", *tiny, "--method", "logistic", "--folds", "0")
        assert made.exit_code == 0, made.output
    shutil.copy(kept, tmp_path / "FILE")
    code = f"import sys; from fewshot_cli.cli.main import main; sys.argv[1:] = {[*words, '-o', 'out']!r}\ntry: main()\n"
    code += "finally: assert 'torch' not in sys.modules"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2 and said in ended.stderr and "Traceback" not in ended.stderr
