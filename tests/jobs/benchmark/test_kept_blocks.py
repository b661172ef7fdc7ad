"""What is at the output of `eval` before it begins: gone on with, kept, or refused; never lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs import context
from fewshot_cli.jobs.benchmark import blocks
from fewshot_cli.jobs.benchmark import run as comparing
from fewshot_cli.jobs.benchmark.protocols import protocols
from fewshot_cli.jobs.benchmark.reproduce import repeat
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.run_record import code_digest
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.episode_journal import Journal, check_record, read_run
from fewshot_cli.storage.feature_cache import FeatureCache
from fewshot_cli.storage.one_writer import one_writer


@pytest.fixture(scope="module")
def day(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "day"
    write_folder(folder, ("cat", "fish", "house", "star"), 6, seed=0, size=64)
    return folder


@pytest.fixture
def run(weights, day, tmp_path) -> Callable[..., dict[str, Any]]:
    def run(*names: str, episodes: int = 60, seed: int = 0, output: Path = tmp_path / "r.json") -> dict[str, Any]:
        asked = protocols({"name": "fixed", "way": 3, "shots": 2, "queries": 3})
        question = ComparisonSettings(tuple(read_datasets(day)), asked, episodes, seed, (), (str(day),))
        recipes = {name: load_recipe(name, backbone="test_vit", image_size=64) for name in names}
        context = JobContext(
            Source(weights["test_vit"], offline=True), torch.device("cpu"), FeatureCache(), NoProgress(), Processes()
        )
        return compare(recipes, question, context, output)[0].report()

    return run


@pytest.fixture
def done(monkeypatch) -> list[int]:
    """The first episodes of the blocks that were answered, from now on."""
    starts: list[int] = []
    original = blocks.answer_block
    monkeypatch.setattr(blocks, "answer_block", lambda *given: starts.append(given[3]) or original(*given))
    return starts


@pytest.mark.slow
def test_another_recipe_leaves_the_first_ones_episodes(run, done, tmp_path):
    first = run("protonet")
    run("ridge")
    done.clear()
    assert run("protonet")["results"] == first["results"]
    both = run("protonet", "ridge")
    assert done == []
    assert both["results"]["protonet"] == first["results"]["protonet"]
    run("lda", seed=3)
    kept = read_run(tmp_path / "r.json")["kept"]
    assert {item["of"] for item in kept.values()} >= {"protonet on day", "ridge on day"}
    done.clear()
    assert run("protonet", "ridge")["results"] == both["results"] and done == []


def test_fewer_episodes_leave_the_others(run, done):
    many = run("protonet", episodes=130)
    done.clear()
    few = run("protonet", episodes=7)
    assert few["results"]["protonet"]["day"]["accuracy"] == many["results"]["protonet"]["day"]["accuracy"][:7]
    assert run("protonet", episodes=130)["results"] == many["results"]
    assert done == []


def test_what_an_interrupted_run_of_another_recipe_left_is_kept(run, done, monkeypatch, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        original = blocks.worked
        patch.setattr(comparing, "worked", lambda *given: (original(*given), stopped()))
        run("protonet")
    assert (tmp_path / "r.json.partial").is_file()
    run("ridge")
    done.clear()
    run("protonet")
    assert done == []


@pytest.mark.parametrize("change", ["torch", "threads", "code"])
def test_a_run_of_other_circumstances_is_not_gone_on_with(change, run, done, monkeypatch, tmp_path):
    """Or else a record would mix two versions of torch, or of us."""
    before = run("protonet")
    done.clear()
    if change == "torch":
        monkeypatch.setattr(context, "versions", lambda: {"torch": "99.0"})
    elif change == "code":
        monkeypatch.setattr(context, "code_digest", lambda: "other code")
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    after = run("protonet", episodes=120)
    assert done == [0, 50, 100]
    assert set(before["blocks"]).isdisjoint(after["blocks"])
    assert set(before["blocks"]).isdisjoint(read_run(tmp_path / "r.json")["kept"])  # they are replaced, not kept beside


def test_the_digest_of_the_code_is_that_of_what_it_does(tmp_path):
    file = tmp_path / "engine" / "sum.py"
    file.parent.mkdir()

    def digest(text: str) -> str:
        file.write_text(text)
        code_digest.cache_clear()
        return code_digest(tmp_path)

    plain = digest("def f(x):\n    return x + 1\n")
    assert digest('"""Sums."""\n\n\ndef f(x):  # one more\n    """The sum."""\n    return x + 1\n') == plain
    assert digest("def f(x):\n    return x + 2\n") != plain
    file.rename(file.with_name("other.py"))
    code_digest.cache_clear()
    assert code_digest(tmp_path) != digest("def f(x):\n    return x + 2\n")


@pytest.mark.slow
def test_a_record_from_before_keys_had_two_parts_is_read_and_repeated(run, weights, tmp_path):
    run("protonet", "ridge")
    path = tmp_path / "r.json"
    old = read_run(path)
    text = json.dumps({name: value for name, value in old.items() if name not in ("kept", "code")})
    for key in old["blocks"]:
        text = text.replace(key, key.partition(".")[0])
    path.write_text(text)
    source = Source(weights["test_vit"], offline=True)
    context = JobContext(source, torch.device("cpu"), FeatureCache(), NoProgress(), Processes())
    assert repeat(path, (), context).differences == 0
    run("lda")
    assert len(read_run(path)["kept"]) == 3  # what cannot be gone on with is no reason to throw it away


@pytest.mark.slow
def test_recipes_of_other_sizes_are_each_told_with_their_own(weights, day, tmp_path):
    recipes = {f"at {size}": load_recipe("protonet", backbone="test_vit", image_size=size) for size in (64, 96)}
    asked = protocols({"name": "fixed", "way": 3, "shots": 2, "queries": 3})
    question = ComparisonSettings(tuple(read_datasets(day)), asked, 5, 0, (), (str(day),))
    where = Source(weights["test_vit"], offline=True)
    context = JobContext(where, torch.device("cpu"), FeatureCache(), NoProgress(), Processes())
    result, _ = compare(recipes, question, context, tmp_path / "sizes.json")
    assert result.image_size == {"at 64": 64, "at 96": 96}
    assert result.backbone == "test_vit"


# --- what is no record ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["precious\n", "{}", "[1]", "{", '{"results": 1}', "\x00", "[" * 100_000])
def test_a_file_that_is_no_record_is_not_replaced(content, run, tmp_path, passes):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(FewshotError, match=r"r\.json is no record") as caught:
        run("protonet")
    assert "not replaced" in caught.value.hint
    assert path.read_text() == content and not passes


def test_an_empty_file_may_become_one(run, tmp_path):
    (tmp_path / "r.json").touch()
    assert run("protonet")["episodes"] == 60


DAMAGES = {
    "no blocks": lambda run: run.pop("blocks"),
    "a block's size": lambda run: run["blocks"].clear(),
    "blocks of nothing": lambda run: run.update(blocks=dict.fromkeys(run["blocks"], 0)),
    "no keys": lambda run: run.update(keys={}),
    "keys of another row": lambda run: run["keys"]["protonet"].update(night="x"),
    "results of text": lambda run: run["results"]["protonet"]["day"].update(nll=["much"] * 60),
    "results cut": lambda run: run["results"]["protonet"]["day"]["nll"].pop(),
    "no results": lambda run: run["results"].update(protonet={"day": {}}),
    "rows of nothing": lambda run: run["results"].update(protonet=None),
    "results of a list": lambda run: run.update(results=[]),
    "kept of nothing": lambda run: run.update(kept={"a": {"blocks": {"x": []}}}),
    "kept a list": lambda run: run.update(kept=[1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_a_sentence(damage, run, source, tmp_path):
    run("protonet")
    path = tmp_path / "r.json"
    record = json.loads(path.read_text())
    DAMAGES[damage](record)
    path.write_text(json.dumps(record))
    before = path.read_bytes()
    for attempt in (
        lambda: run("protonet", episodes=70),
        lambda: check_record(path),
        lambda: repeat(path, (), JobContext(source, torch.device("cpu"), FeatureCache(), NoProgress(), Processes())),
    ):
        with pytest.raises(FewshotError, match=r"r\.json is damaged"):
            attempt()
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_damaged_line_of_a_journal_is_done_again(run, done, tmp_path):
    whole = run("protonet", output=tmp_path / "whole.json")
    (key,) = whole["blocks"]
    done.clear()
    journal = Journal(tmp_path / "r.json")
    for results in (5, [], [{}], [{"accuracy": []}], [{"accuracy": ["x"]}], [{"accuracy": [1.0], "nll": []}], [[1]]):
        journal.write(key, 0, results)
    for start in ("0", -1, None, True):
        journal.write(key, start, [{"accuracy": [1.0]}])
    assert run("protonet")["results"]["protonet"]["day"]["nll"] == whole["results"]["protonet"]["day"]["nll"]
    assert done == [0, 50]


# --- of two at once ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_two_that_write_one_file_the_second_is_refused(run, tmp_path, passes):
    (tmp_path / "other").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "r.json")
    with one_writer(tmp_path / "other" / ".." / "r.json"):
        for path in (tmp_path / "r.json", tmp_path / "link.json"):
            with pytest.raises(FewshotError, match=r"Another command is writing r\.json"):
                run("protonet", output=path)
        assert not passes
        run("protonet", output=tmp_path / "mine.json")
    run("protonet", output=tmp_path / "new" / "folder" / "r.json")
    with one_writer(tmp_path / "none" / "here" / "r.json"):
        pass
    assert not (tmp_path / "none").exists()
    assert not [path.name for path in tmp_path.rglob("*") if path.name.startswith(".")]
