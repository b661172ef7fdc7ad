"""`--bank`, in `adapt` and in `eval`, as people give it."""

import json
from pathlib import Path

import pytest

SMALL = ["--way", 3, "--shots", 1, "--queries", 2, "--episodes", 2]


@pytest.fixture(scope="session")
def banks(tmp_path_factory, vit, random_bank) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("banks")
    return {kind: random_bank(folder / f"my-{kind}.bank", vit, kind) for kind in ("experts", "dense")}


@pytest.mark.slow
def test_adapt_from_a_bank_needs_no_backbone_and_takes_prototypes(fewshot, drawn, weights, banks, tmp_path):
    file = tmp_path / "x.fewshot"
    common = ["adapt", drawn, "-o", file, "--bank", banks["experts"], "--weights", weights, "--folds", 2]
    report = json.loads(fewshot(*common, "--json").stdout)
    assert (report["method"], report["backbone"]) == ("protonet", "test_vit")
    shown = fewshot(*common, "--density", 0.05)
    assert shown.exit_code == 0, shown.output
    for text in ("my-experts.bank", "pruning", "5.0 % of the weights moved", "without pruning"):
        assert text in " ".join(shown.stdout.split())
    assert fewshot(*common, "--method", "ridge", "--set", "density=0.1").exit_code == 0
    found = json.loads(fewshot("predict", file, drawn, "--weights", weights, "--json").stdout)
    assert len(found["predictions"]) == 9


def test_folds_of_a_formula_on_a_dense_bank_are_refused(fewshot, drawn, weights, banks, tmp_path):
    """Such a bank moves the backbone and nothing else, so that its estimate leaves out one image at a time."""
    result = fewshot("adapt", drawn, "-o", tmp_path / "x.fewshot", "--bank", banks["dense"], "--folds", 2)
    assert result.exit_code == 2 and "--folds is of methods that train" in result.stderr


@pytest.mark.slow
def test_every_recipe_is_asked_on_the_frozen_backbone_and_on_each_bank(fewshot, drawn, weights, banks, tmp_path):
    run = tmp_path / "run.json"
    common = ["eval", "protonet", "ridge", "--data", drawn, *SMALL, "--weights", weights, "-o", run]
    both = [word for path in banks.values() for word in ("--bank", path)]
    result = fewshot(*common, *both, "--report", tmp_path / "x.html", "--markdown", tmp_path / "x.md")
    assert result.exit_code == 0, result.output
    found = json.loads(run.read_text())
    from_banks = [f"{name} from my-{kind}" for name in ("protonet", "ridge") for kind in banks]
    assert list(found["results"]) == ["protonet", "ridge", *from_banks]
    assert {recipe["backbone"] for recipe in found["recipes"].values()} == {"test_vit"}
    assert all(name in (tmp_path / "x.md").read_text() for name in from_banks)
    assert fewshot("eval", "--check", run, "--weights", weights).exit_code == 0
    only = json.loads(fewshot(*common, *both, "--no-frozen", "--json").stdout)
    assert list(only["results"]) == from_banks
    for option in (["--density", 0.05], ["--set", "density=0.05"]):
        few = json.loads(fewshot(*common, *both[:2], *option, "--json").stdout)
        assert few["recipes"]["protonet"]["density"] is None
        assert few["recipes"]["protonet from my-experts"]["density"] == 0.05
        assert (
            few["methods"]["protonet from my-experts"]["bytes"] < only["methods"]["protonet from my-experts"]["bytes"]
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--bank", "gone.bank"], "no bank 'gone.bank'"),
        (["--bank", "EXPERTS", "--backbone", "resnet18"], "bank of test_vit"),
        (["--bank", "EXPERTS", "--image-size", 96], "images of 64 pixels"),
        (["--bank", "EXPERTS", "--density", 0], "density"),
        (["--bank", "EXPERTS", "--density", 2], "density"),
        (["--density", 0.5], "density: is of a bank"),
    ],
)
@pytest.mark.parametrize("command", ["adapt", "eval"])
def test_mistakes_are_one_clear_message(command, fewshot, drawn, weights, banks, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [banks["experts"] if word == "EXPERTS" else word for word in words]
    start = ["adapt", drawn, "-o", "x.fewshot"] if command == "adapt" else ["eval", "protonet", "--data", drawn, *SMALL]
    result = fewshot(*start, *given, "--weights", weights)
    assert result.exit_code == 2, result.output
    assert says in result.stderr and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_bank_alone_is_asked_with_prototypes(fewshot, drawn, weights, banks, tmp_path):
    common = ["eval", "--data", drawn, *SMALL, "--weights", weights, "-o", tmp_path / "run.json"]
    found = json.loads(fewshot(*common, "--bank", banks["dense"], "--json").stdout)
    assert list(found["results"]) == ["protonet", "protonet from my-dense"]


def test_a_bank_is_given_once(fewshot, drawn, weights, banks, tmp_path):
    twice = ["--bank", banks["dense"], "--bank", banks["dense"]]
    result = fewshot("eval", "protonet", "--data", drawn, *SMALL, *twice, "--weights", weights)
    assert result.exit_code == 2 and "Two banks are called my-dense" in result.stderr
