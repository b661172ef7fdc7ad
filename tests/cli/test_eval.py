"""`fewshot eval RECIPE... --data DIR...` as people call it."""

import json
from pathlib import Path

import pytest

from fewshot_cli.cli.options import spread
from fewshot_cli.images.drawing import write_folder

SMALL = ["--way", 3, "--shots", 2, "--queries", 3, "--episodes", 60]


@pytest.fixture(scope="session")
def sets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("day", "night")):
        write_folder(folder / name, ("cat", "fish", "house", "star"), 6, seed=seed, size=64)
    return folder


def without_times(run: dict) -> dict:
    figures = {
        name: {row: {m: v for m, v in metrics.items() if m != "seconds"} for row, metrics in rows.items()}
        for name, rows in run["results"].items()
    }
    return {"results": figures, "keys": run["keys"], "data": run["data"], "rows": run["rows"]}


def test_many_data_sets_follow_one_option():
    before = "eval ridge --data a b --seed 1 --data c -o x.json"
    after = "eval ridge --data a --data b --seed 1 --data c -o x.json"
    assert spread(before.split()) == after.split()
    assert spread(["--data=a", "--json"]) == ["--data=a", "--json"]


@pytest.mark.slow
def test_recipes_are_compared_and_everything_is_left_behind(fewshot, tiny, sets, tmp_path):
    out, page, table = tmp_path / "r.json", tmp_path / "r.html", tmp_path / "r.md"
    result = fewshot(
        *("eval", "protonet", "ridge", "--data", sets, *SMALL, *tiny, "-o", out, "--report", page, "--markdown", table)
    )
    assert result.exit_code == 0, result.output
    for text in (result.stdout, page.read_text(), table.read_text()):
        assert all(word in text for word in ("protonet", "ridge", "day", "night"))
    run = json.loads(out.read_text())
    shown = fewshot("eval", "protonet", "ridge", "--data", sets, *SMALL, *tiny, "-o", out, "--json")
    assert json.loads(shown.stdout)["results"] == run["results"]
    checked = fewshot("eval", "--check", out, *tiny[2:4])
    assert checked.exit_code == 0, checked.output
    run["results"]["ridge"]["night"]["accuracy"][0] += 0.5
    out.write_text(json.dumps(run))
    assert fewshot("eval", "--check", out, *tiny[2:4]).exit_code == 3


def test_the_threshold_sets_the_exit_code(fewshot, tiny, sets, tmp_path):
    common = ["eval", "protonet", "--data", sets, *SMALL, *tiny, "-o", tmp_path / "r.json"]
    assert fewshot(*common, "--threshold", 0.34).exit_code == 0
    below = fewshot(*common, "--threshold", 1)
    assert below.exit_code == 3 and "below the threshold" in below.stderr


@pytest.mark.slow
def test_base_and_new_classes_are_in_every_report(fewshot, write_towers, sets, tmp_path):
    out, page, table = tmp_path / "r.json", tmp_path / "r.html", tmp_path / "r.md"
    towers = ["--backbone", "clip:tiny", "--weights", write_towers(tmp_path / "towers")]
    asked = ["eval", "zero-shot", "coop", "--data", sets, "--protocol", "base-to-new", "--shots", 2, "--episodes", 3]
    quick = ["--set", "method.scale=50", "-o", out, "--report", page, "--markdown", table]
    result = fewshot(*asked, *towers, *quick)
    assert result.exit_code == 0, result.output
    run = json.loads(out.read_text())
    groups = ["base", "new", "harmonic mean"]
    assert [row["name"] for row in run["rows"]] == [f"{data}, {group}" for data in ("day", "night") for group in groups]
    for text in (result.stdout, page.read_text(), table.read_text()):
        assert all(word in text for word in ("base-to-new", "day, new", "harmonic mean", "over all"))
    both = [run["methods"]["coop"]["datasets"][f"{data}, harmonic mean"]["accuracy"] for data in ("day", "night")]
    assert run["methods"]["coop"]["accuracy"] == pytest.approx(sum(both) / 2, abs=1e-6)
    assert fewshot("eval", "--check", out, *towers[2:]).exit_code == 0


@pytest.mark.slow
def test_shifted_data_is_told_from_that_in_distribution(fewshot, tiny, sets, tmp_path):
    page, table = tmp_path / "r.html", tmp_path / "r.md"
    shifted = [
        "--protocol",
        "across",
        "--set",
        "protocol.in_distribution=true",
        "--target",
        "night",
        "--queries",
        "all",
    ]
    result = fewshot(
        *("eval", "protonet", "ridge", "--data", sets, *SMALL[:4], "--episodes", 3, *shifted, *tiny),
        *("-o", tmp_path / "r.json", "--report", page, "--markdown", table),
    )
    assert result.exit_code == 0, result.output
    for text in (result.stdout, page.read_text(), table.read_text()):
        assert "day, in distribution" in text and "other images of the data set" in " ".join(text.split())
    assert "on shifted data" in page.read_text() and "queries all, in distribution beside)" in page.read_text()


@pytest.mark.slow
def test_the_smoke_test_of_the_readme_needs_no_data_and_no_network(fewshot, tmp_path):
    result = fewshot(
        *("eval", "ridge", "--data", "drawn", "--image-size", 64, "--episodes", 20, "--threshold", 0.9, "--offline"),
        *("-o", tmp_path / "smoke.json"),
    )
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_without_a_name_the_run_is_named_after_what_was_asked(fewshot, tiny, sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in (0, 0, 1):
        assert fewshot("eval", "protonet", "--data", sets / "day", *SMALL, *tiny, "--seed", seed).exit_code == 0
    assert len(list(tmp_path.glob("eval-*.run.json"))) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval"], "delta file and a FOLDER"),
        (["eval", "ridge"], "delta file and a FOLDER"),
        (["eval", "--data", "drawn"], "No recipe"),
        (["eval", "rigde", "--data", "drawn"], "ridge"),
        (["eval", "ridge", "ridge", "--data", "drawn"], "twice"),
        (["eval", "ridge", "--data", "nowhere"], "nowhere"),
        (["eval", "ridge", "--data", "drawn", "--way", "500"], "--way"),
        (["eval", "ridge", "--data", "drawn", "--way", "some"], "way"),
        (["eval", "ridge", "--data", "drawn", "--shots", "1,x"], "shots"),
        (["eval", "ridge", "--data", "drawn", "--protocol", "odd"], "odd"),
        (["eval", "ridge", "--data", "drawn", "--protocol", "meta-dataset", "--shots", "5"], "shots"),
        (["eval", "ridge", "--data", "drawn", "--protocol", "across"], "across"),
        (["eval", "ridge", "--data", "drawn", "--protocol", "base-to-new", "--way", "5"], "way"),
        (["eval", "ridge", "--data", "drawn", "--target", "moon"], "moon"),
        (["eval", "ridge", "--data", "drawn", "--write-splits", "there"], "no files of their own"),
        (["eval", "ridge", "--data", "drawn", "--set", "protocol.in_distribution=true"], "no such setting"),
        (["eval", "ridge", "--data", "drawn", "--split", "test"], "split"),
        (["eval", "ridge", "--data", "drawn", "--set", "protocol.way=["], "protocol.way=["),
        (["eval", "ridge", "--data", "drawn", "--set", "protocol.way"], "protocol.way"),
        (["eval", "--check", "nowhere.json"], "nowhere.json"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else None,
)
def test_mistakes_are_one_clear_message(fewshot, tiny, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fewshot(*words, *(tiny if "--check" not in words else []))
    assert result.exit_code == 2, result.output
    assert says in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("recipes", [("protonet", "ridge"), ("norms",)])
def test_two_processes_find_what_one_finds(process, weights, sets, recipes, tmp_path):
    episodes = ["--episodes", 120] if "norms" not in recipes else ["--episodes", 3]
    quick = (
        ["--set", "method.tuning.optim.steps=2", "--set", "method.tuning.optim.epochs=0"] if "norms" in recipes else []
    )
    asked = ["eval", *recipes, "--data", sets, *SMALL[:6], *episodes, *quick, "--json"]
    tiny = ["--backbone", "test_vit", "--weights", weights, "--image-size", "64"]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fewshot_cli"]
    one = process("-m", "fewshot_cli", *asked, *tiny, "-o", tmp_path / "one.json", FEWSHOT_CACHE=str(tmp_path / "1"))
    two = process(*start, *asked, *tiny, "-o", tmp_path / "two.json", FEWSHOT_CACHE=str(tmp_path / "2"))
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    found = [json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")]
    assert without_times(found[0]) == without_times(found[1])
    assert json.loads(two.stdout)["results"] == found[1]["results"]  # printed once
    assert not list(tmp_path.glob("*.partial*"))
