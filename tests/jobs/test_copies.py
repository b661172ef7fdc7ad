"""A data set with copies of files gives what it gives without them; and nothing is written where nothing is kept."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.benchmark.protocols import protocols
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.copies import copies
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

LABELS = ("cat", "fish", "house")


@pytest.fixture
def run(weights, tmp_path) -> Callable[..., dict[str, Any]]:
    def run(folder: Path, *names: str, cache: FeatureCache | None = None, episodes: int = 20, **facts: Any) -> Any:
        asked = protocols({"name": "fixed", "way": 3, "shots": 2, "queries": 2} | facts)
        question = ComparisonSettings(tuple(read_datasets(folder)), asked, episodes, 0, (), (str(folder),))
        quick = ("method.tuning.optim.steps=1", "method.tuning.optim.epochs=0")
        recipes = {
            name: load_recipe(name, quick if name == "norms" else (), backbone="test_vit", image_size=64)
            for name in names or ["protonet"]
        }
        source = Source(weights["test_vit"], offline=True)
        context = JobContext(source, torch.device("cpu"), cache or FeatureCache(), NoProgress(), Processes())
        return compare(recipes, question, context, tmp_path / f"{folder.name}.json")[0].report()

    return run


@pytest.mark.slow
def test_copies_are_learned_from_or_asked_about_once(run, tmp_path):
    plain, doubled = tmp_path / "plain" / "mine", tmp_path / "doubled" / "mine"
    write_folder(plain, LABELS, 5, seed=0, size=64)
    shutil.copytree(plain, doubled)
    for picture in sorted(plain.rglob("*.*")):
        shutil.copy(picture, doubled / picture.parent.name / f"z {picture.name}")
    once, twice = run(plain), run(doubled)
    assert twice["data"]["mine"]["images"] == once["data"]["mine"]["images"] == 15
    assert twice["data"]["mine"]["hash"] == once["data"]["mine"]["hash"]
    assert {m: v for m, v in twice["results"]["protonet"]["mine"].items() if m != "seconds"} == {
        m: v for m, v in once["results"]["protonet"]["mine"].items() if m != "seconds"
    }
    skipped = twice["data"]["mine"]["skipped"]
    assert len(skipped) == 15
    assert all(Path(item["path"]).name.startswith("z ") and "a copy of " in item["reason"] for item in skipped)
    with pytest.raises(FewshotError, match="'cat'"):
        run(doubled, shots=4, queries=4)  # there are not eight pictures of it


@pytest.mark.slow
def test_a_picture_in_two_classes_is_in_neither(run, tmp_path):
    write_folder(tmp_path / "mine", LABELS, 5, seed=0, size=64)
    first, *_ = sorted((tmp_path / "mine" / "cat").iterdir())
    shutil.copy(first, tmp_path / "mine" / "fish" / "same.png")
    data = run(tmp_path / "mine")["data"]["mine"]
    assert data["images"] == 14
    assert {Path(item["path"]).name for item in data["skipped"]} == {first.name, "same.png"}
    assert all("in the classes cat and fish" in item["reason"] for item in data["skipped"])


@pytest.mark.slow
def test_what_another_data_set_is_asked_about_is_not_learned_from(run, tmp_path):
    for seed, name in enumerate(("day", "night")):
        write_folder(tmp_path / "sets" / name, LABELS, 6, seed=seed, size=64)
    for label in LABELS:
        first, *_ = sorted((tmp_path / "sets" / "night" / label).iterdir())
        shutil.copy(first, tmp_path / "sets" / "day" / label / "leak.png")
    report = run(tmp_path / "sets", "protonet", "norms", name="across", episodes=2)
    assert {row["name"]: len(row["skipped"]) for row in report["rows"]} == {"day -> night": 3, "night -> day": 3}
    (row, _) = report["rows"]
    assert {Path(item["path"]).name for item in row["skipped"]} == {"leak.png"}
    assert [data["images"] for data in report["data"].values()] == [21, 18]
    with pytest.raises(FewshotError, match="'cat'"):
        run(tmp_path / "sets", name="across", shots=6, queries=1)


def test_which_copies_are_left_out():
    contents = ["x", "y", "x", "z", "y", "x"]
    assert copies([0, 0, 0, 1, 1, 0], contents, "abcdef", ("A", "B")) == {
        2: "a copy of a",
        5: "a copy of a",
        1: "the same picture is in the classes A and B: b and e",
        4: "the same picture is in the classes A and B: b and e",
    }
    assert copies([], [], [], ()) == {}


def test_without_a_cache_nothing_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "kept"))
    write_folder(tmp_path / "mine", LABELS, 5, seed=0, size=64)
    run(tmp_path / "mine", "protonet", "norms", cache=NoCache(), episodes=1)
    assert not (tmp_path / "kept").exists()


def test_what_a_fixed_split_asks_about_is_kept_and_its_copies_are_not_learned_from():
    roles = ("support", "support", "query", "query", "support")
    left = copies([0, 0, 0, 0, 1], ["a", "b", "a", "a", "b"], ["1", "2", "3", "4", "5"], ["cat", "dog"], roles)
    assert set(left) == {0, 1, 4}
    assert left[0] == "a copy of 4, which is asked about"
    assert "the same picture is in the classes cat and dog" in left[1]
