"""Drawn folders, weights files of tiny models, and the jobs with what a test does not care about filled in."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.formats.delta.rounding import Values
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.classify import adapt as adapting
from fewshot_cli.jobs.classify import evaluate as evaluating
from fewshot_cli.jobs.classify import predict as predicting
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.results import AdaptResult
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache

CPU = torch.device("cpu")
LABELS = ("cat", "house", "star")
SIZE = 64


def context(source: Source, cache: FeatureCache | None = None) -> JobContext:
    return JobContext(source, CPU, cache or NoCache(), NoProgress())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory, vit, conv) -> dict[str, Path]:
    """A safetensors file for each of the tiny models, by its timm name."""
    folder = tmp_path_factory.mktemp("weights")
    for backbone in (vit, conv):
        kept = {name: values.contiguous().clone() for name, values in backbone.source.items()}
        save_file(kept, folder / f"{backbone.name}.safetensors")
    return {backbone.name: folder / f"{backbone.name}.safetensors" for backbone in (vit, conv)}


@pytest.fixture(scope="session")
def towers_file(tmp_path_factory, write_towers) -> Path:
    """The weights of two tiny towers, with what open_clip writes beside them."""
    return Path(write_towers(tmp_path_factory.mktemp("towers")))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """Four pictures each of three things; not to be changed."""
    folder = tmp_path_factory.mktemp("drawn")
    write_folder(folder, LABELS, 4, seed=0, size=SIZE)
    return folder


@pytest.fixture(scope="session")
def unseen(tmp_path_factory) -> Path:
    """Five other pictures each of the same things; not to be changed."""
    folder = tmp_path_factory.mktemp("unseen")
    write_folder(folder, LABELS, 5, seed=1, size=SIZE)
    return folder


@pytest.fixture
def photos(tmp_path, drawn) -> Path:
    """A copy of `drawn` to do things to."""
    return Path(shutil.copytree(drawn, tmp_path / "photos"))


@pytest.fixture
def source(weights) -> Source:
    return Source(weights["test_vit"], offline=True)


@pytest.fixture
def learn_result(weights) -> Callable[..., AdaptResult]:
    """`adapt` on a tiny model: a closed-form head and no cache, unless told otherwise."""

    def learn_result(
        folder: Path,
        output: Path,
        recipe: str = "ridge",
        *changes: str,
        backbone: str = "test_vit",
        weights_file: Path | None = None,
        image_size: int | None = SIZE,
        folds: int = 0,
        seed: int = 0,
        cache: FeatureCache | None = None,
        bank: Path | None = None,
        density: float | None = None,
        values: Values = "float32",
        keep_support: bool = False,
    ) -> AdaptResult:
        given = {"backbone": backbone, "image_size": image_size} if bank is None else {"bank": str(bank)}
        what = load_recipe(recipe, changes, **given, density=density)
        where = Source(weights_file or weights.get(backbone), offline=True)
        how = adapting.AdaptSettings(what, seed, folds, values, keep_support)
        return adapting.adapt(folder, output, how, context(where, cache))

    return learn_result


@pytest.fixture
def learn(learn_result) -> Callable[..., dict[str, Any]]:
    """The same as `--json` has it."""
    return lambda *args, **kwargs: learn_result(*args, **kwargs).report()


@pytest.fixture
def predict(source) -> Callable[..., dict[str, Any]]:
    def predict(
        file: Path | list[Path], *inputs: Path, where: Source = source, cache: FeatureCache | None = None
    ) -> dict[str, Any]:
        files = [file] if isinstance(file, Path) else file
        return predicting.predict(files, inputs, context(where, cache)).report()

    return predict


@pytest.fixture
def evaluate(source) -> Callable[..., dict[str, Any]]:
    def evaluate(file: Path, folder: Path) -> dict[str, Any]:
        return evaluating.evaluate(file, folder, context(source)).report()

    return evaluate


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many pictures each forward pass of a frozen backbone was about, from now on."""
    seen: list[int] = []
    original = Backbone.frozen_features

    def counted(self: Backbone, pictures: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(pictures))
        return original(self, pictures, *rest)

    monkeypatch.setattr(Backbone, "frozen_features", counted)
    return seen
