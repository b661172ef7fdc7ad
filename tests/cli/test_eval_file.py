"""`fewshot eval FILE FOLDER`: every option does what it says, or is refused by its name."""

import json
import re
import shutil
from pathlib import Path

import pytest
import typer

from fewshot_cli.cli.main import app


@pytest.fixture
def asked(file, drawn, weights, tmp_path) -> list[object]:
    """The command on a copy of the file, so that records lie in a folder of their own."""
    (tmp_path / "in").mkdir()
    return ["eval", shutil.copy(file, tmp_path / "in" / "x.fewshot"), drawn, "--weights", weights]


def test_a_threshold_is_a_gate(fewshot, asked, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "wrong")
    (tmp_path / "wrong" / "cat").rename(tmp_path / "wrong" / "x")
    (tmp_path / "wrong" / "house").rename(tmp_path / "wrong" / "cat")
    (tmp_path / "wrong" / "x").rename(tmp_path / "wrong" / "house")
    accuracy = json.loads(fewshot(*asked, "--json").stdout)["accuracy"]
    assert fewshot(*asked, "--threshold", accuracy).exit_code == 0
    asked[2] = tmp_path / "wrong"
    result = fewshot(*asked, "--threshold", 0.99, "--json")
    assert result.exit_code == 3 and "below the threshold of 0.99" in result.stderr
    assert json.loads(result.stdout)["accuracy"] < 0.99  # what was found is said all the same


def test_the_result_goes_where_it_was_asked_for(fewshot, asked, tmp_path):
    out, page, table = tmp_path / "r.json", tmp_path / "r.html", tmp_path / "r.md"
    result = fewshot(*asked, "-o", out, "--report", page, "--markdown", table, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert json.loads(out.read_text()) == report and report["record"] == str(out)
    share = f"{100 * report['accuracy']:.1f} %"
    for text in (page.read_text(), table.read_text()):
        assert share in text
        for name, found in report["per_class"].items():
            assert name in text and f"{100 * found['accuracy']:.1f} %" in text
    assert len(re.findall(r"^\| (cat|house|star) \| 3 \|", table.read_text(), re.MULTILINE)) == 3
    assert not list((tmp_path / "in").glob("*.run.json"))
    assert fewshot(*asked, "-o", out).exit_code == 0  # a record may take the place of a record


def test_class_names_are_only_text(fewshot, tiny, drawn, tmp_path):
    shutil.copytree(drawn, tmp_path / "photos")
    (tmp_path / "photos" / "cat").rename(tmp_path / "photos" / "<b>cat & | *x*")
    file = tmp_path / "x.fewshot"
    assert fewshot("adapt", tmp_path / "photos", "-o", file, *tiny, "--recipe", "ridge").exit_code == 0
    page, table = tmp_path / "r.html", tmp_path / "r.md"
    asked = ["eval", file, tmp_path / "photos", *tiny[2:4], "--report", page, "--markdown", table]
    assert fewshot(*asked).exit_code == 0
    assert "<b>" not in page.read_text() and "&lt;b&gt;cat &amp; | *x*" in page.read_text()
    assert r"\<b\>cat \& \| \*x\*" in table.read_text()


def test_each_folder_has_its_own_record(fewshot, asked, drawn, tmp_path):
    fewshot(*asked)
    shutil.copytree(drawn, tmp_path / "other")
    next((tmp_path / "other" / "cat").iterdir()).unlink()
    asked[2] = tmp_path / "other"
    fewshot(*asked)
    fewshot(*asked)
    records = [json.loads(path.read_text()) for path in (tmp_path / "in").glob("x.fewshot.eval-*.run.json")]
    assert sorted(record["n"] for record in records) == [8, 9]


@pytest.mark.parametrize("content", ["precious", "{}", '{"command": "adapt"}', "[1]", '{"command": "eval"}'])
def test_what_is_no_record_is_not_replaced(fewshot, asked, content, tmp_path):
    out = tmp_path / "r.json"
    out.write_text(content)
    result = fewshot(*asked, "-o", out)
    assert result.exit_code == 2 and "not replaced" in result.stderr and out.read_text() == content


OF_EPISODES = (
    *("--protocol=fixed", "--episodes=600", "--way=5", "--shots=5", "--queries=15", "--base-way=3", "--sessions=2"),
    *(
        "--target=day",
        "--split=test",
        "--write-splits=splits",
        "--bank=x.bank",
        "--density=0.5",
        "--frozen",
        "--no-frozen",
    ),
    *("--backbone=test_vit", "--image-size=64", "--set=method.name=ridge", "--seed=0"),
)


@pytest.mark.parametrize("option", OF_EPISODES)
def test_what_belongs_to_recipes_is_refused_by_name(fewshot, asked, option):
    """Also where it is what would be taken anyway: whoever types it expects something of it."""
    result = fewshot(*asked, option)
    name = "--no-frozen" if "frozen" in option and "no" in option else option.partition("=")[0]
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {name} is of recipes"), result.output


@pytest.mark.parametrize(
    "option", [*OF_EPISODES, "--threshold=0.5", "--output=r.json", "--report=r.html", "--markdown=r.md", "ridge"]
)
def test_what_a_check_would_ignore_is_refused_by_name(fewshot, option, tmp_path):
    result = fewshot("eval", "--check", tmp_path / "run.json", option)
    name = "--no-frozen" if option == "--no-frozen" else option.partition("=")[0]
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {name} is not for --check"), result.output


@pytest.mark.parametrize("option", ["--refuse=0.1", "--sets=0.9"])
def test_promises_are_of_a_file(fewshot, option):
    result = fewshot("eval", "ridge", "--data", "drawn", option)
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {option.partition('=')[0]} is of a delta file")


def test_every_option_is_told_apart():
    """A new option of `eval` says whether it belongs to a delta file on a folder, and to --check, or is refused."""
    options = {max(p.opts, key=len) for p in typer.main.get_command(app).commands["eval"].params if p.opts[0][0] == "-"}
    refused = {option.partition("=")[0] for option in OF_EPISODES} - {"--no-frozen"}
    heeded = {"--output", "--report", "--markdown", "--threshold", "--refuse", "--sets"}
    anywhere = {"--weights", "--device", "--offline", "--no-cache", "--json", "--quiet"}
    assert options == refused | heeded | anywhere | {"--data", "--check"}


def test_several_are_named_at_once(fewshot, asked):
    result = fewshot(*asked, "--way", 3, "--seed", 1, "--bank", "x.bank")
    assert result.stderr.startswith("Error: --way, --bank and --seed are of recipes")


def test_frozen_says_nothing_without_a_bank(fewshot, tiny):
    for option in ("--frozen", "--no-frozen"):
        result = fewshot("eval", "ridge", "--data", "drawn", *tiny, option)
        assert result.exit_code == 2 and "no --bank is given" in result.stderr


def test_an_output_that_is_no_run_is_refused_before_anything_is_imported(process, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fewshot_cli.cli.main import app\n"
        f"words = ['eval', 'ridge', '--data', 'drawn', '-o', {str(tmp_path / 'notes.txt')!r}]\n"
        "result = CliRunner().invoke(app, words)\n"
        "assert result.exit_code == 2 and 'not replaced' in result.stderr, result.output\n"
        "assert not {'torch', 'timm'} & set(sys.modules)\n"
    )
    result = process("-c", script)
    assert result.returncode == 0, result.stderr
    assert Path(tmp_path / "notes.txt").read_text() == "precious"
