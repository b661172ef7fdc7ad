"""A tiny model's weights, drawn pictures in every form, and `adapt` with what tests don't care about filled in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

import fewshot_cli as fewshot
from fewshot_cli.images.drawing import draw

LABELS = ("cat", "house", "star")
SIZE = 64


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory, vit) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file({name: values.contiguous().clone() for name, values in vit.source.items()}, path)
    return path


@pytest.fixture(scope="session")
def pictures() -> dict[str, list[Image.Image]]:
    """Four pictures each of three things; not to be changed."""
    return {label: [draw(label, i, SIZE) for i in range(4)] for label in LABELS}


@pytest.fixture(scope="session")
def folder(tmp_path_factory, pictures) -> Path:
    """The same as PNG files, one folder for each class."""
    root = tmp_path_factory.mktemp("pictures")
    for label, some in pictures.items():
        (root / label).mkdir()
        for i, picture in enumerate(some):
            picture.save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def arrays(pictures) -> dict[str, np.ndarray]:
    """The same as arrays `(4, height, width, 3)`."""
    return {label: np.stack([np.asarray(picture) for picture in some]) for label, some in pictures.items()}


@pytest.fixture
def adapt(weights) -> Callable[..., fewshot.Classifier]:
    def adapt(images: Any, recipe: str = "ridge", **given: Any) -> fewshot.Classifier:
        tiny = {"backbone": "test_vit", "image_size": SIZE} if "bank" not in given else {}
        return fewshot.adapt(images, recipe=recipe, weights=weights, offline=True, **{**tiny, **given})

    return adapt
