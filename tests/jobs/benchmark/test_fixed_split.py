"""Recipes on a fixed split: what is learned from and what is asked about are never mixed, whatever the protocol."""

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
from fewshot_cli.jobs.benchmark.protocols import check_no_split, protocols
from fewshot_cli.jobs.benchmark.reproduce import repeat
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import Means
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import NoCache

LABELS = ("cat", "fish", "house", "star")


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    """Of six drawings of each class three to learn from, one to validate on and two to ask about."""
    folder = tmp_path_factory.mktemp("split")
    write_folder(folder / "images", LABELS, 6, seed=0, size=64)
    parts: dict[str, list[Any]] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(LABELS):
        for number, path in enumerate(sorted((folder / "images" / name).iterdir())):
            part = "train" if number < 3 else "val" if number == 3 else "test"
            parts[part].append([f"{name}/{path.name}", label, name])
    path = folder / "split_zhou_Drawn.json"
    path.write_text(json.dumps(parts))
    return path


@pytest.fixture
def means(weights) -> Means:
    return Means(Source(weights["test_vit"], offline=True), torch.device("cpu"), NoCache(), NoProgress(), Processes())


@pytest.fixture
def run(means, tmp_path) -> Callable[..., dict[str, Any]]:
    def run(path: Path, split: str | None = None, **facts: Any) -> dict[str, Any]:
        asked = protocols({"name": "fixed", "way": "all", "shots": 2, "queries": "all"} | facts)
        question = ComparisonSettings(tuple(read_datasets(path, split)), asked, 3, 0, (), (str(path),), split)
        recipes = {"protonet": load_recipe("protonet", backbone="test_vit", image_size=64)}
        return compare(recipes, question, means, tmp_path / "run.json")[0].report()

    return run


def test_support_sets_are_of_train_and_queries_of_test(run, split, means, tmp_path):
    report = run(split)
    assert report["data"]["Drawn"]["images"] == 20  # those to validate on take no part
    accuracies = report["results"]["protonet"]["Drawn"]["accuracy"]
    assert len(accuracies) == 3
    assert all(abs(8 * share - round(8 * share)) < 1e-4 for share in accuracies)
    assert repeat(tmp_path / "run.json", (), means).differences == 0


def test_a_split_of_just_the_shots_is_one_episode(run, split):
    assert len(run(split, shots=3)["results"]["protonet"]["Drawn"]["accuracy"]) == 1


def test_another_split_of_the_same_images_is_another_question(run, split):
    parts = json.loads(split.read_text())
    other = split.with_name("split_zhou_Drawn.2.json")
    other.write_text(json.dumps({"train": parts["test"] + parts["val"], "test": parts["train"]}))
    hashes = {run(path)["data"][name]["hash"] for path, name in ((split, "Drawn"), (other, "Drawn.2"))}
    assert len(hashes) == 2


def test_one_part_is_asked_about_within_itself(run, split):
    report = run(split, split="train", queries=1)
    assert report["data"]["Drawn"]["images"] == 12 and report["split"] == "train"


def test_it_is_not_practised_on(split):
    with pytest.raises(FewshotError, match="Drawn is a fixed split, whose test images take no part in practice"):
        check_no_split(read_datasets(split))
    check_no_split(read_datasets(split, "train"))


def test_too_few_to_learn_from_is_said(run, split):
    with pytest.raises(FewshotError, match="'cat' has 3 images to learn from; 4 shots need 4"):
        run(split, shots=4)
