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
from fewshot_cli.jobs.benchmark.episode_splits import check_splits
from fewshot_cli.jobs.benchmark.protocols import check_no_split, protocols
from fewshot_cli.jobs.benchmark.reproduce import repeat
from fewshot_cli.jobs.benchmark.run import ComparisonSettings, compare
from fewshot_cli.jobs.context import JobContext
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
def context(weights) -> JobContext:
    return JobContext(
        Source(weights["test_vit"], offline=True), torch.device("cpu"), NoCache(), NoProgress(), Processes()
    )


@pytest.fixture
def run(context, tmp_path) -> Callable[..., dict[str, Any]]:
    def run(path: Path, split: str | None = None, **facts: Any) -> dict[str, Any]:
        asked = protocols({"name": "fixed", "way": "all", "shots": 2, "queries": "all"} | facts)
        question = ComparisonSettings(tuple(read_datasets(path, split)), asked, 3, 0, (), (str(path),), split)
        recipes = {name: load_recipe(name, backbone="test_vit", image_size=64) for name in ("protonet", "ridge")}
        return compare(recipes, question, context, tmp_path / "run.json", tmp_path / "splits")[0].report()

    return run


def test_support_sets_are_of_train_and_queries_of_test(run, split, context, tmp_path):
    report = run(split)
    assert report["data"]["Drawn"]["images"] == 20  # those to validate on take no part
    accuracies = report["results"]["protonet"]["Drawn"]["accuracy"]
    assert len(accuracies) == 3
    assert all(abs(8 * share - round(8 * share)) < 1e-4 for share in accuracies)
    assert repeat(tmp_path / "run.json", (), context).differences == 0


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


# --- ours, written as such -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_an_episode_written_as_a_split_is_that_episode(run, split, tmp_path, ending):
    report = run(split.parent / "images", shots=[1, 3])
    written = sorted(path.name for path in (tmp_path / "splits").glob(f"*.{ending}"))
    assert written == sorted(f"images-shots{k}-seed0-episode{i}.{ending}" for k in (1, 3) for i in range(3))
    for shots, row in ((1, "images, 1 shot"), (3, "images, 3 shots")):
        for number, accuracy in enumerate(report["results"]["ridge"][row]["accuracy"]):
            name = f"images-shots{shots}-seed0-episode{number}.{ending}"
            beside = split.parent / "images" / name
            beside.write_bytes((tmp_path / "splits" / name).read_bytes())
            again = run(beside, shots=shots)
            beside.unlink()
            (found,) = again["results"]["ridge"].values()
            assert found["accuracy"] == [accuracy]


def test_labels_are_numbers_of_the_classes_and_paths_go_from_the_split(run, split, tmp_path):
    run(split, queries=1)
    content = json.loads((tmp_path / "splits" / "Drawn-shots2-seed0-episode0.json").read_text())
    assert [len(content[part]) for part in ("train", "val", "test")] == [8, 0, 4]
    assert {(label, name) for _, label, name in content["train"]} == set(enumerate(LABELS))
    assert all((split.parent / path).is_file() for path, _, _ in content["train"] + content["test"])


@pytest.mark.parametrize("name", ["across", "incremental", "leave-one-out"])
def test_what_is_no_split_of_one_data_set_is_refused(name, split, tmp_path):
    with pytest.raises(FewshotError, match=f"An episode of {name} is no split"):
        check_splits(tmp_path, tuple(read_datasets(split)), protocols({"name": name}))


def test_images_without_files_are_refused_and_so_is_a_file(split, tmp_path):
    with pytest.raises(FewshotError, match="The images of drawn are no files of their own"):
        check_splits(tmp_path, tuple(read_datasets(Path("drawn"))), protocols({"name": "fixed"}))
    with pytest.raises(FewshotError, match="is a file, and --write-splits writes several"):
        check_splits(split, tuple(read_datasets(split)), protocols({"name": "fixed"}))


def test_the_order_of_labels_is_part_of_the_question(run, split, tmp_path):
    """Base-to-new halves follow from it."""
    parts = json.loads(split.read_text())
    turned = split.with_name("turned.json")
    turned.write_text(
        json.dumps({part: [[path, 3 - label, name] for path, label, name in rows] for part, rows in parts.items()})
    )
    (plain,), (other,) = (read_datasets(path) for path in (split, turned))
    assert other.classes == plain.classes[::-1]
    renamed = split.parent / "other" / split.name
    renamed.parent.mkdir()
    (renamed.parent / "images").symlink_to(split.parent / "images")
    renamed.write_text(turned.read_text())
    keys = {run(path)["keys"]["ridge"]["Drawn"] for path in (split, renamed)}
    assert len(keys) == 2
