"""`fewshot meta-tune` as people run it: alone, killed and resumed, and as two processes."""

import json
import signal

import pytest
import torch

from fewshot_cli.formats.bank import read_bank
from fewshot_cli.formats.checkpoint import checkpoint_path
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.storage.one_writer import one_writer

SMALL = [
    *("--set", "training.protocol={name: fixed, way: 3, shots: 2, queries: 2}", "--set", "training.epochs=2"),
    *("--set", "training.episodes=4", "--set", "training.validation.episodes=2", "--set", "method.experts=3"),
]
KILLED = """
import os, signal, sys
from fewshot_cli.cli.main import main
from fewshot_cli.engine.meta.loop import Practice

advance = Practice.advance

def killed(self):
    if self.step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    advance(self)

Practice.advance = killed
main()
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for seed, name in enumerate(("day", "night")):
        write_folder(folder / name, ("cat", "fish", "house", "star", "tree"), 10, seed=seed, size=64)
    return folder


@pytest.mark.slow
def test_meta_tune_says_where_the_bank_is_and_what_comes_next(fewshot, sets, tiny, tmp_path):
    output = tmp_path / "x.bank"
    words = ["meta-tune", "smat", "--data", sets, "-o", output, *tiny, *SMALL]
    result = fewshot(*words)
    assert result.exit_code == 0, result.output
    for part in ("x.bank", "8 tasks from day (5 classes), night (5 classes)", "sparsity", "night (validation)"):
        assert part in result.stdout
    assert f"fewshot adapt FOLDER --bank {output}" in result.stdout
    report = json.loads(fewshot(*words, "--json", "--values", "float32").stdout)
    assert report["command"] == "meta-tune" and report["method"] == "smat" and report["episodes"] == 8
    assert report["bytes"] == output.stat().st_size


@pytest.mark.slow
def test_what_it_learned_is_adapted_from(fewshot, sets, drawn, tiny, tmp_path):
    bank, file = tmp_path / "x.bank", tmp_path / "x.fewshot"
    assert fewshot("meta-tune", "smat", "--data", sets, "-o", bank, *tiny, *SMALL).exit_code == 0
    weights = ["--weights", tiny[3]]
    result = fewshot("adapt", drawn, "--bank", bank, "-o", file, *weights, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["density"] > 0.5
    assert fewshot("predict", file, drawn, *weights).exit_code == 0
    assert "3 experts" in fewshot("inspect", bank).stdout


@pytest.mark.slow
def test_both_steps_of_mamfs_release_on_fewer_images_than_a_protocol_needs(fewshot, sets, write_towers, tmp_path):
    bank, towers = tmp_path / "x.bank", ["--weights", write_towers(tmp_path / "towers"), "--offline"]
    quick = ["--set", "method.tasks=1", "--set", "method.way=2", "--set", "method.tuning.optim.epochs=1"]
    words = ["meta-tune", "mamf-clip-release", "--data", sets / "day", "-o", bank, "--backbone", "clip:tiny"]
    result = fewshot(*words, *towers, *quick, "--json")
    assert result.exit_code == 0, result.output
    assert read_bank(bank).tensors.keys() == {"logit_scale"}
    assert "logit_scale" in fewshot("inspect", bank).stdout
    asked = ["--data", sets / "night", "--way", "2", "--shots", "1", "--queries", "1", "--episodes", "1"]
    result = fewshot("eval", "mamf-clip-task", "--bank", bank, *asked, *towers, "-o", tmp_path / "x.run.json")
    assert result.exit_code == 0, result.output
    assert "mamf-clip-task from x" in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["smat"], "--data"),
        (["ridge", "--data", "."], "adapt to one task"),
        (["smat", "--data", "nowhere"], "nowhere"),
        (["smat", "--data", "drawn", "--values", "int3"], "int3"),
        (["smat", "--data", "drawn", "--fast-path", "maybe"], "maybe"),
        (["dense", "--data", "drawn", "--fast-path", "off"], "fast_path would do nothing"),
        (["smat", "--data", "drawn", "--fast-path", "on", "--device", "cpu"], "--fast-path on would do nothing"),
        (["smat", "--data", "drawn", "--set", "method.sparsity=1.5"], "method.sparsity"),
        (["smat", "--data", "drawn", "--set", "method.masks=none"], "learned"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_2(words, says, fewshot, tiny, tmp_path):
    result = fewshot("meta-tune", *words, "-o", tmp_path / "x.bank", *tiny)
    assert result.exit_code == 2, result.output
    assert says in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_of_two_that_write_one_bank_the_second_is_refused(fewshot, sets, tiny, tmp_path):
    """Or else the first to finish would delete the other's checkpoint."""
    words = ["meta-tune", "smat", "--data", sets, "-o", tmp_path / "x.bank", *tiny, *SMALL]
    with one_writer(tmp_path / "x.bank"):
        result = fewshot(*words)
    assert result.exit_code == 2 and "Another command is writing x.bank" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_and_resumed_it_ends_in_the_same_bank(process, sets, tiny, tmp_path):
    straight, killed = tmp_path / "straight.bank", tmp_path / "killed.bank"
    words = ["meta-tune", "smat", "--data", sets, *tiny, *SMALL]
    assert process("-m", "fewshot_cli", *words, "-o", straight).returncode == 0
    assert process("-c", KILLED, *words, "-o", killed).returncode == -signal.SIGKILL
    assert checkpoint_path(killed).exists()
    refused = process("-m", "fewshot_cli", *words, "-o", killed)
    assert refused.returncode == 2 and "--resume" in refused.stderr
    resumed = process("-m", "fewshot_cli", *words, "-o", killed, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert straight.read_bytes() == killed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.bank{rest}" for name in ("straight", "killed") for rest in ("", ".run.json", ".log.jsonl")
    )


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["uniform", "exp3"])
def test_two_processes_learn_what_one_learns(process, sets, tiny, sampler, tmp_path):
    """The episodes of a step are shared out; sums are rounded in another order, and nothing else differs."""
    words = ["meta-tune", "smat", "--data", sets, *tiny, *SMALL, "--set", "training.batch=2", "--values", "float32"]
    words += ["--set", f"training.sampler.name={sampler}", "--set", "method.delta_lr=0.01"]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "fewshot_cli"]
    one = process("-m", "fewshot_cli", *words, "-o", tmp_path / "one.bank")
    two = process(*start, *words, "-o", tmp_path / "two.bank")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    first, second = read_bank(tmp_path / "one.bank"), read_bank(tmp_path / "two.bank")
    torch.testing.assert_close(first.delta, second.delta, rtol=1e-4, atol=1e-8)
    torch.testing.assert_close(first.gates, second.gates, rtol=1e-4, atol=1e-6)
    for name in first.tensors:
        torch.testing.assert_close(first.tensors[name], second.tensors[name], rtol=1e-4, atol=1e-6)
    logs = [(tmp_path / f"{name}.bank.log.jsonl").read_text().splitlines() for name in ("one", "two")]
    for left, right in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert left.get("domain") == right.get("domain") and left.get("episode") == right.get("episode")
        assert left.get("loss", 0) == pytest.approx(right.get("loss", 0), rel=1e-4)
