"""What is on standard output and what isn't."""

import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from fewshot_cli.images.drawing import write_folder
from fewshot_cli.meta_recipes import recipe_names
from fewshot_cli.reports.terminal.evaluate import evaluated
from fewshot_cli.results import ClassAccuracy, EvalResult, ExpectedAccuracy

ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "adapt": "command version seed backbone method classes images skipped file bytes density seconds expected_accuracy "
    "max_abs_diff values",
    "predict": "command version backbone classes images file predictions",
    "eval": "command version backbone method classes images skipped file accuracy low high n per_class confusion ece",
    "export": "command version backbone classes images file bytes max_abs_diff top1_agreement",
    "compose": "command version seed backbone method classes file bytes density files weights shared_classes seconds",
    "rename-class": "command version seed backbone method classes images file bytes expected_accuracy accuracy_before "
    "accuracy_after seconds",
    "inspect": "command version backbone method classes images seed file bytes density expected_accuracy",
    "verify": "command version backbone file",
    "doctor": "command version classes images",
    "recipes": "command version",
    "backbones": "command version",
}


NO_CACHE = {command: ["--no-cache"] for command in ("adapt", "predict", "eval")}
"""So that there is work whose progress could be shown."""


@pytest.fixture
def call(file, other, drawn, weights, tiny, tmp_path):
    """The arguments of a quick run of each command."""
    copy = tmp_path / "x.fewshot"
    shutil.copy(file, copy)
    base = ["--weights", weights]
    return {
        "adapt": ["adapt", drawn, "-o", tmp_path / "new.fewshot", *tiny],
        "predict": ["predict", copy, drawn, tmp_path / "none.jpg", *base],
        "eval": ["eval", copy, drawn, *base],
        "export": ["export", copy, "-o", tmp_path / "x.onnx", "--format", "onnx", *base],
        "compose": ["compose", copy, other, "-o", tmp_path / "all.fewshot"],
        "rename-class": ["rename-class", copy, "cat", "zebra", "-o", tmp_path / "renamed.fewshot"],
        "inspect": ["inspect", copy],
        "verify": ["verify", copy, *base],
        "doctor": ["doctor", drawn],
        "recipes": ["recipes", "list"],
        "backbones": ["backbones", "lite"],
    }


@pytest.mark.slow
@pytest.mark.parametrize("command", KEYS)
def test_json_is_one_object_with_its_keys_and_nothing_else(fewshot, call, command):
    if command == "export":
        pytest.importorskip("onnx")
    result = fewshot(*call[command], "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\n") and result.stdout.count("\n") == 1
    report = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(KEYS[command].split()) <= set(report)
    assert report["command"] == command
    assert result.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(set(KEYS) - {"export"}))
def test_for_people_there_are_plain_lines(fewshot, call, command):
    result = fewshot(*call[command])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() and result.stderr == ""
    assert not any(ord(character) < 32 and character != "\n" for character in result.stdout)
    assert not any(line.endswith(" ") for line in result.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["adapt", "predict", "eval", "compose", "doctor"])
def test_quiet_prints_the_same_results_and_no_progress(fewshot, call, command, monkeypatch):
    monkeypatch.setattr("fewshot_cli.reports.progress.ProgressLines.EVERY", 0.0)
    loud, quiet = fewshot(*call[command], *NO_CACHE.get(command, ())), fewshot(*call[command], "--quiet")
    assert quiet.exit_code == 0 and quiet.stderr == "" and loud.stderr != ""
    kept = [line for line in loud.stdout.splitlines() if not line.startswith("took")]
    assert [line for line in quiet.stdout.splitlines() if not line.startswith("took")] == kept


@pytest.mark.slow
def test_runs_leave_their_record(fewshot, call, tmp_path):
    report = json.loads(fewshot(*call["adapt"], "--json").stdout)
    assert json.loads((tmp_path / "new.fewshot.run.json").read_text()) == report
    report = json.loads(fewshot(*call["eval"], "--json").stdout)
    assert Path(report["record"]).parent == tmp_path
    assert json.loads(Path(report["record"]).read_text()) == report


def test_eval_works_where_it_can_leave_no_record(fewshot, call):
    record = Path(json.loads(fewshot(*call["eval"], "--json").stdout)["record"])
    record.unlink()
    record.mkdir()
    result = fewshot(*call["eval"], "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["n"] == 9
    assert json.loads(result.stdout)["record"] is None
    assert "no record" in result.stderr


def test_csv_holds_the_rows(fewshot, call, tmp_path):
    result = fewshot(*call["predict"], "--csv", tmp_path / "deep" / "rows.csv", "--json")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "deep" / "rows.csv").read_text(), newline="")))
    expected = json.loads(result.stdout)["predictions"]
    assert [(row["path"], row["label"] or None) for row in rows] == [(row["path"], row["label"]) for row in expected]
    assert rows[-1]["error"] and len(rows) == 10


def test_several_classifiers_each_give_their_row(fewshot, file, other, drawn, weights, tmp_path):
    csv_file = tmp_path / "rows.csv"
    result = fewshot("predict", file, other, drawn / "cat", "--weights", weights, "--csv", csv_file, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [row["file"] for row in report["predictions"]] == [str(file), str(other)] * 3
    assert report["classes"] == ["cat", "flower", "house", "star"] and "file" not in report
    assert csv_file.read_text().startswith("path,file,label,probability,error\n")
    shown = fewshot("predict", file, other, drawn / "cat", "--weights", weights).stdout
    assert other.name in shown and file.name in shown


@pytest.mark.slow
def test_a_composed_file_is_as_good_as_any(fewshot, call, weights, drawn, tmp_path):
    for rule in ("add", "ties", "dare"):
        result = fewshot(*call["compose"], "--rule", rule, "--scale", "0.5", "--quiet")
        assert result.exit_code == 0, result.output
        assert "star: in 2 files" in result.stdout and "survives" in result.stdout
    assert (tmp_path / "all.fewshot.run.json").is_file()
    assert fewshot("verify", tmp_path / "all.fewshot", "--weights", weights).exit_code == 0
    assert fewshot("eval", tmp_path / "all.fewshot", drawn, "--weights", weights).exit_code == 0


def test_long_paths_stay_on_one_line(fewshot, file, drawn, weights, tmp_path):
    path = tmp_path.joinpath(*["a long folder name " * 6] * 4, "x.jpg")
    result = fewshot("predict", file, path, drawn, "--weights", weights)
    assert any(line.startswith(str(path)) and "no such file" in line for line in result.stdout.splitlines())


@pytest.mark.slow
def test_names_are_names_not_markup(fewshot, tiny, weights, tmp_path):
    """Brackets are markup to rich, and control characters steer a terminal."""
    write_folder(tmp_path / "in", ("cat", "star"), 2, seed=0, size=64)
    (tmp_path / "in" / "cat").rename(tmp_path / "in" / "[red]cat[bold]")
    (tmp_path / "in" / "star").rename(tmp_path / "in" / ":star: \x1b[31m")
    file = tmp_path / "[x].fewshot"
    for arguments in (
        ["adapt", tmp_path / "in", "-o", file, *tiny],
        ["eval", file, tmp_path / "in", "--weights", weights],
        ["inspect", file],
        ["predict", file, tmp_path / "in", "--weights", weights],
    ):
        result = fewshot(*arguments)
        assert result.exit_code == 0, result.output
        assert "[red]cat[bold]" in result.stdout and r":star: \x1b[31m" in result.stdout
        assert "\x1b" not in result.stdout
    assert "[x].fewshot" in fewshot("inspect", file).stdout


def chunks(descriptor: int) -> Iterator[bytes]:
    """What is written to a terminal until the last writer has closed it, which Linux reports as an input error."""
    with contextlib.suppress(OSError):
        while chunk := os.read(descriptor, 1 << 16):
            yield chunk


@pytest.mark.slow
def test_no_color_gives_no_escape_codes_even_in_a_terminal(file, cache):
    pty = pytest.importorskip("pty")
    outputs = []
    for environment in ({"NO_COLOR": "1"}, {}):
        ours, theirs = pty.openpty()
        variables = {"FEWSHOT_CACHE": str(cache), "TERM": "xterm-256color", "COLUMNS": "100", **environment}
        command = [sys.executable, "-m", "fewshot_cli", "inspect", str(file)]
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdout=theirs, stderr=theirs)
        os.close(theirs)
        outputs.append(b"".join(chunks(ours)).decode())  # read while it writes: a terminal holds 4 KB
        os.close(ours)
        assert process.wait(60) == 0
    plain, coloured = outputs
    assert "\x1b" not in plain and "test_vit" in plain
    assert "\x1b" in coloured


def result_of(names: list[str], each: int = 7) -> EvalResult:
    way = len(names)
    confusion = [[each if row == column else (row + column) % 3 for column in range(way)] for row in range(way)]
    per_class = {n: ClassAccuracy(sum(row), each / sum(row)) for n, row in zip(names, confusion, strict=True)}
    return EvalResult(
        file="x.fewshot", sha256="", folder="photos", backbone="test_vit", method="ridge", transductive=False,
        classes=tuple(names), images=9, n=9, skipped=(), accuracy=0.5, low=0.4, high=0.6, ece=0.1, learned_from=1,
        balanced_accuracy=0.5, expected_accuracy=ExpectedAccuracy(0.5, 0.4, 0.6, "5-fold"), data="", versions={},
        confusion=tuple(map(tuple, confusion)), per_class=per_class, seconds={"total": 1.0},
    )  # fmt: skip


@pytest.mark.parametrize("way", [2, 12, 13, 40])
@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", ["c", "a class with a name that is rather too long for any table", "长" * 40])
@pytest.mark.parametrize("each", [7, 345])
def test_the_confusion_matrix_never_wraps(way, width, name, each):
    names = [f"{name} {i}" for i in range(way)]
    console = Console(width=width, file=io.StringIO(), markup=False)
    with console.capture() as printed:
        console.print(evaluated(result_of(names, each)))
    lines = printed.get().splitlines()
    assert all(cell_len(line) <= width for line in lines)
    if way <= 12:
        start = next(i for i, line in enumerate(lines) if line.startswith("rows:"))
        header, *rows = lines[start + 1 : start + 2 + way]
        assert header.split() == [*map(str, range(1, way + 1)), "right"]
        assert all(row.split()[0] == str(i) and row.rstrip().endswith("%") for i, row in enumerate(rows, 1))
        assert all(str(each) in row for row in rows)


# --- recipes, backbones, demo ---------------------------------------------------------------------------------------


def test_recipes_are_listed_shown_copied_and_checked(fewshot, tmp_path):
    listing = fewshot("recipes")
    assert listing.stdout == fewshot("recipes", "list").stdout
    assert all(name in listing.stdout for name in recipe_names())
    shown = fewshot("recipes", "show", "lora").stdout
    assert shown == (ROOT / "recipes" / "lora.yaml").read_text()
    assert fewshot("recipes", "copy", "lora", tmp_path / "deep" / "mine.yaml").exit_code == 0
    assert (tmp_path / "deep" / "mine.yaml").read_text() == shown
    again = fewshot("recipes", "copy", "lora", tmp_path / "deep" / "mine.yaml")
    assert again.exit_code == 2 and "exists already" in again.stderr
    spelled = fewshot("recipes", "check", tmp_path / "deep" / "mine.yaml", "--set", "method.rank=3")
    assert spelled.exit_code == 0 and "rank: 3" in spelled.stdout and "momentum:" in spelled.stdout


def test_what_check_prints_is_a_recipe(fewshot, tmp_path):
    (tmp_path / "full.yaml").write_text(fewshot("recipes", "check", "saft").stdout)
    whole, full = (
        json.loads(fewshot("recipes", "check", name, "--json").stdout) for name in ("saft", tmp_path / "full.yaml")
    )
    assert whole["recipe"] == full["recipe"]


def test_backbones_are_listed_one_a_line(fewshot):
    names = json.loads(fewshot("backbones", "lite", "--json").stdout)["backbones"]
    assert names and fewshot("backbones", "lite").stdout.splitlines()[:-1] == names


@pytest.mark.slow
def test_the_demo_goes_the_whole_way(fewshot, tmp_path):
    result = fewshot("demo", "-o", tmp_path / "demo", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["command"] == "demo" and report["eval"]["low"] > 2 / len(report["adapt"]["classes"])
    assert report["eval"]["learned_from"] == 0
    assert (tmp_path / "demo" / "demo.fewshot").is_file()
    again = fewshot("demo", "-o", tmp_path / "demo")
    assert again.exit_code == 2 and "not an empty folder" in again.stderr


def test_a_tilde_is_the_home_folder_wherever_it_stands(fewshot, call, file, drawn, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert fewshot(*call["predict"], "--csv=~/rows.csv").exit_code == 0
    assert (tmp_path / "rows.csv").exists() and not (tmp_path / "~").exists()
    shutil.copy(file, tmp_path / "x.fewshot")
    for arguments in (("inspect", "~/x.fewshot"), ("eval", "~/x.fewshot", drawn, "--weights", weights)):
        assert fewshot(*arguments).exit_code == 0, arguments


@pytest.mark.slow
def test_the_doctor_reads_a_zip_and_says_what_it_left_out(fewshot, weights, drawn, tmp_path):
    shutil.make_archive(str(tmp_path / "drawn"), "zip", drawn)
    report = json.loads(fewshot("doctor", tmp_path / "drawn.zip", "--json").stdout)
    assert report["images"] == 9 and report["classes"] == ["cat", "house", "star"] and report["left_out"] == {}
    folder = shutil.copytree(drawn, tmp_path / "folder")
    (folder / "@eaDir").mkdir()
    passed_over = "1 that systems and programs leave among pictures: @eaDir (1)"
    assert passed_over in fewshot("doctor", folder).stdout
    tiny = ("--backbone", "test_vit", "--weights", weights, "--image-size", "64")
    learned = fewshot("adapt", folder, "--recipe", "ridge", *tiny, "-o", folder / "x.fewshot")
    assert " ".join(learned.stdout.split()).count(passed_over) == 1, learned.stderr
    assert json.loads((folder / "x.fewshot.run.json").read_text())["left_out"] == {"@eaDir": 1}
    report = json.loads(fewshot("doctor", folder, "--json").stdout)
    assert report["left_out"] == {"outputs and records": 2, "@eaDir": 1} and report["findings"] == []
