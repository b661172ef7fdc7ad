"""`fewshot predict`: what rows say, and where they go."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fewshot_cli.cli.main import app
from fewshot_cli.storage.one_writer import one_writer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def asked(file, weights):
    def asked(*words, stdin: bytes | None = None):
        return CliRunner().invoke(app, ["predict", str(file), *map(str, words), "--weights", str(weights)], input=stdin)

    return asked


@pytest.fixture
def pictures(drawn) -> list[Path]:
    return sorted(drawn.rglob("*.jpg"))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


@pytest.mark.slow
def test_the_likeliest_classes(asked, drawn, tmp_path):
    report = json.loads(asked(drawn, "--top", 2, "--csv", tmp_path / "x.csv", "--json").stdout)
    for row, written in zip(report["predictions"], rows_of(tmp_path / "x.csv"), strict=True):
        assert len(row["top"]) == 2
        (first, p), (second, q) = row["top"]
        assert (written["label"], written["probability"]) == (first, str(p))
        assert (written["label 2"], written["probability 2"]) == (second, str(q))
    shown = asked(drawn, "--top", 3).stdout.splitlines()[1]
    assert all(name in shown.split(None, 1)[1] for name in ("cat", "house", "star"))
    alone = asked(drawn, "--top", 1)
    assert alone.exit_code == 0, alone.exception
    assert [len(row["top"]) for row in json.loads(asked(drawn, "--top", 9, "--json").stdout)["predictions"]] == [3] * 9


def test_every_class_has_its_probability_where_that_is_asked_for(asked, drawn, tmp_path):
    result = asked(
        *(drawn, tmp_path / "none.jpg", "--probabilities"),
        *("--csv", tmp_path / "x.csv", "--jsonl", tmp_path / "x.jsonl", "--json"),
    )
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == json.loads(result.stdout)["predictions"]
    *written, bad = rows_of(tmp_path / "x.csv")
    assert bad["p(cat)"] == "" and "probabilities" not in lines[-1]
    for row, cells in zip(lines, written, strict=False):
        assert list(row["probabilities"]) == ["cat", "house", "star"]
        assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert row["probabilities"][row["label"]] == row["probability"]
        assert [cells[f"p({name})"] for name in row["probabilities"]] == [str(p) for p in row["probabilities"].values()]
    refused = asked(drawn, "--probabilities")
    assert refused.exit_code == 2 and "--csv" in refused.stderr


def test_paths_on_standard_input(asked, pictures, tmp_path):
    listed = f"{pictures[3]}\n\n{tmp_path / 'none.jpg'}\r\n{pictures[0]}\n".encode()
    rows = json.loads(asked(pictures[1], "-", pictures[2], "--json", stdin=listed).stdout)["predictions"]
    wanted = [pictures[1], pictures[3], tmp_path / "none.jpg", pictures[0], pictures[2]]
    assert [row["path"] for row in rows] == [str(path) for path in wanted]
    assert rows[2]["error"]
    assert asked("-", stdin=b"a\0b\n").exit_code == 2
    nothing = asked("-", stdin=b"")
    assert nothing.exit_code == 2 and "No image" in nothing.stderr


def test_pictures_are_copied_into_folders_of_their_labels(asked, drawn, tmp_path):
    (tmp_path / "in").mkdir()
    for number, path in enumerate(sorted(drawn.rglob("*.jpg"))):
        shutil.copy(path, tmp_path / "in" / f"{number}.jpg")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"no picture")
    before = {path: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    into = tmp_path / "sorted"
    report = json.loads(asked(tmp_path / "in", "--sort-into", into, "--json").stdout)
    counts = {}
    for row in report["predictions"]:
        if row["error"]:
            assert "copy" not in row
            continue
        copy = Path(row["copy"])
        assert copy == into / row["label"] / Path(row["path"]).name
        assert copy.read_bytes() == Path(row["path"]).read_bytes()
        counts[row["label"]] = counts.get(row["label"], 0) + 1
    assert report["sorted_into"] == {"folder": str(into), "copied": dict(sorted(counts.items())), "there": 0}
    assert {path: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    shown = asked(tmp_path / "in", "--sort-into", into)
    assert "copied 0 images" in shown.stdout and "9 were there already" in shown.stdout
    assert len(list(into.rglob("*.jpg"))) == 9
    for words in ([tmp_path / "in", "--sort-into", tmp_path / "in" / "x"], [into / "cat", "--sort-into", into]):
        refused = asked(*words)
        assert refused.exit_code == 2 and "lie in each other" in refused.stderr


def test_several_classifiers_can_not_sort(fewshot, file, other, drawn, weights, tmp_path):
    result = fewshot("predict", file, other, drawn, "--sort-into", tmp_path / "x", "--weights", weights)
    assert result.exit_code == 2 and "Several classifiers" in result.stderr and not (tmp_path / "x").exists()


@pytest.mark.slow
def test_classes_whose_names_a_folder_can_not_have_are_not_sorted_into_one(fewshot, file, weights, drawn, tmp_path):
    other, third = tmp_path / "y.fewshot", tmp_path / "z.fewshot"
    assert fewshot("rename-class", file, "cat", "a:b", "-o", other).exit_code == 0
    assert fewshot("rename-class", other, "star", "a_b", "-o", third).exit_code == 0
    words = ["predict", third, drawn, "--sort-into", tmp_path / "sorted", "--weights", weights, "--json"]
    rows = json.loads(fewshot(*words).stdout)["predictions"]
    assert {"a:b", "a_b"} <= {row["label"] for row in rows}
    assert len({(row["label"], Path(row["copy"]).parent) for row in rows}) == len({row["label"] for row in rows})
    assert len({Path(row["copy"]).parent for row in rows}) == len({row["label"] for row in rows})


def test_two_commands_do_not_write_one_file_at_once(asked, drawn, tmp_path):
    with one_writer(tmp_path / "x.csv"):
        refused = asked(drawn, "--csv", tmp_path / "x.csv")
    assert refused.exit_code == 2 and "Another command is writing x.csv" in refused.stderr
    assert asked(drawn, "--csv", tmp_path / "x.csv").exit_code == 0
    assert [path.name for path in tmp_path.glob("*x.csv*")] == ["x.csv"]


def test_what_can_not_be_watched(asked, drawn, tmp_path, fewshot, tiny, weights):
    assert "no folder to watch" in asked(drawn, "--watch", tmp_path / "none").stderr
    path = tmp_path / "tim.fewshot"
    assert fewshot("adapt", drawn, "-o", path, *tiny, "--recipe", "tim", "--set", "head.steps=1").exit_code in (0, 2)
    if not path.exists():
        assert fewshot("adapt", drawn, "-o", path, *tiny, "--recipe", "tim", "--set", "method.steps=1").exit_code == 0
    result = fewshot("predict", path, "--watch", drawn, "--weights", weights)
    assert result.exit_code == 2 and "transductive" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_watched_folder_gives_a_row_for_each_new_picture_until_ctrl_c(started, file, weights, drawn, tmp_path):
    folder, into = tmp_path / "in", tmp_path / "sorted"
    folder.mkdir()
    old, new = sorted((drawn / "cat").iterdir())[:2]
    shutil.copy(old, folder / "old.jpg")
    words = ["predict", file, "--watch", folder, "--sort-into", into, "--weights", weights, "--quiet"]
    with started("-u", "-m", "fewshot_cli", *words) as running:
        time.sleep(0.1)
        for number in range(100):  # until it has begun to watch
            shutil.copy(new, folder / f"new-{number}.jpg")
            if into.exists():
                break
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.5)
        line = running.stdout.readline().rstrip("\n").split("\t")
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert Path(line[0]).name.startswith("new-") and line[1] in ("cat", "house", "star") and 0 < float(line[2]) <= 1
    assert "old.jpg" not in rest and "images labelled" in rest and f"into {into}" in rest


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_json_lines_go_through_a_pipe(file, weights, drawn):
    words = ["predict", str(file), str(drawn), "--weights", str(weights), "--jsonl", "/dev/stdout", "--quiet"]
    ended = subprocess.run(
        [sys.executable, "-m", "fewshot_cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert len([json.loads(line) for line in ended.stdout.splitlines()]) == 9
