"""What the tests share: tiny timm models with random weights, easy tasks, and the published numbers."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import settings
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.defaults import TRAINING_BETA
from fewshot_cli.engine.head.linear import class_means
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import gates
from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, start_bank
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.build import build_towers
from fewshot_cli.engine.model.clip.description import Description
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.engine.train.text import with_texts
from fewshot_cli.formats.bank import BankHeader, BankProvenance, write_bank
from fewshot_cli.formats.delta.file import BaseFacts

torch.set_num_threads(1)  # two cores and many small tensors: threads only wait for each other

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would the commands that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):  # the same examples in every run; at home new ones are tried
    settings.load_profile("gate")

TINY = {"vit": "test_vit", "conv": "test_efficientnet"}
CLASSES = ("red stripes", "green chequers", "blue rings")
COLOURS = torch.tensor([[200, 40, 40], [40, 180, 60], [50, 60, 210]])


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., dict[str, Tensor]]:
    """The weights timm starts a model with, the same for the same seed."""

    def weights(name: str, seed: int = 0) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return dict(timm.create_model(name).state_dict())

    return weights


@pytest.fixture(scope="session")
def vit(random_weights) -> Backbone:
    return build_backbone(TINY["vit"], random_weights(TINY["vit"]), image_size=64)


@pytest.fixture(scope="session")
def conv() -> Backbone:
    """Random convolutions with the batch-norm statistics of blurred noise, so that its features are of order one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(TINY["conv"])
        noise = F.interpolate(torch.randn(32, 3, 8, 8), size=64, mode="bilinear")
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    model.train()(noise)
    return build_backbone(TINY["conv"], model.state_dict(), image_size=64)


TINY_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 64, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
"""Two towers with CLIP's own vocabulary, most of which is embeddings of tokens."""


@pytest.fixture(scope="session")
def tower_weights() -> Callable[..., dict[str, Tensor]]:
    """Random weights as open_clip calls them, the same for the same seed.

    Norms and embeddings are spread, so that pictures and texts are told apart.
    """
    import open_clip

    def weights(config: dict[str, Any] = TINY_CLIP, seed: int = 0) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found = dict(open_clip.CLIP(**config).state_dict())
            for name, values in found.items():
                if "ln_" in name:
                    values += 0.2 * torch.randn_like(values)
                if "embedding" in name:
                    values *= 20
        return found

    return weights


@pytest.fixture(scope="session")
def write_towers(tower_weights) -> Callable[..., Path]:
    """Writes a folder as open_clip does; gives the path of the weights."""

    def written(folder: Path, config: dict[str, Any] = TINY_CLIP, seed: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        words = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        (folder / "open_clip_config.json").write_text(json.dumps(words))
        path = folder / "open_clip_model.safetensors"
        save_file({name: values.contiguous() for name, values in tower_weights(config, seed).items()}, path)
        return path

    return written


@pytest.fixture(scope="session")
def clip(tower_weights, pictures) -> TwoTowers:
    """Two tiny towers whose texts of the drawn classes point at what the classes look like: projected by least squares.

    Each text lies between its class and the next, so that there is something to learn from images.
    """
    about, weights = Description("clip:tiny", TINY_CLIP, {}), tower_weights()
    blind = build_towers(about, weights | {"text_projection": torch.eye(16)})
    images, labels = pictures((8, 8, 8), 7)
    seen = class_means(F.normalize(blind.frozen_features(images), dim=1), labels, 3)
    common = F.normalize(seen.mean(0), dim=0)
    seen = F.normalize(seen - torch.outer(seen @ common, common), dim=1)  # what tells one class from the others
    read = blind.text_features(blind.tokens([text for (text,) in class_texts(CLASSES)]))
    return build_towers(about, weights | {"text_projection": torch.linalg.pinv(read) @ (seen + 0.3 * seen.roll(1, 0))})


@pytest.fixture(scope="session", params=["vit", "conv"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Each of the two families: tokens with layer norm, and convolutions with batch norm in channels-last memory."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def pictures() -> Callable[..., tuple[Tensor, Tensor]]:
    """Drawn pictures `(n, 3, 64, 64)` and labels: red stripes, green chequers, blue rings, each moved and noisy."""

    def drawn(shots: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
        rng = torch.Generator().manual_seed(seed)
        labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
        rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        images = []
        for label in labels.tolist():
            y, x = torch.randint(0, 16, (2,), generator=rng).tolist()
            rings = ((rows - 24 - y).square() + (columns - 24 - x).square()).sqrt()
            pattern = [(rows + y) // 8 % 2, ((rows + y) // 8 + (columns + x) // 8) % 2, (rings // 8).long() % 2][label]
            noise = torch.randint(-5, 6, (3, 64, 64), generator=rng)
            images.append((COLOURS[label].view(3, 1, 1) * (0.8 + 0.2 * pattern) + noise).clamp(0, 255).byte())
        return torch.stack(images), labels

    return drawn


@pytest.fixture(scope="session")
def easy(pictures) -> Callable[..., Support]:
    """A task that is easy to tell apart; the number of images in each class are its `shots`."""

    def task(backbone: Backbone, shots: tuple[int, ...] = (5, 4, 3), seed: int = 1) -> Support:
        images, labels = pictures(shots, seed)
        support = Support(images, labels, backbone.frozen_features(images), len(shots), CLASSES[: len(shots)])
        return with_texts(backbone, support, class_texts(support.classes))

    return task


@pytest.fixture(scope="session")
def random_bank() -> Callable[..., Path]:
    """Writes a bank as meta-tuning would, of three random experts or a random dense change of standard deviation `std`;
    gives its path."""

    def written(path: Path, backbone: Backbone, kind: str = "experts", seed: int = 0, std: float = 0.02) -> Path:
        net = FlatBackbone.of(backbone)
        bank = start_bank(net, SMATSettings(experts=3), seed)
        delta = std * torch.randn(net.layout.size, generator=torch.Generator().manual_seed(seed))
        others = {name: values for name, values in bank.items() if name not in (DELTA, LOGITS)}
        header = BankHeader(
            base=BaseFacts(
                backbone=backbone.name,
                fingerprint=backbone.fingerprint,
                size=net.layout.size,
                licence=backbone.licence,
                preprocessing=backbone.preprocessing,
            ),
            kind=kind,
            shapes=dict(zip(net.layout.names, net.layout.shapes, strict=True)),
            experts=3 if kind == "experts" else 0,
            recipe={"method": {"name": "smat"}},
            settings={"pool": "mean", "temperature": 0.5} if kind == "experts" else {},
            provenance=BankProvenance(seed=seed, episodes=0, data={}, validation={}, versions={}),
        )
        opened = gates(4 * bank[LOGITS], TRAINING_BETA) if kind == "experts" else None
        write_bank(path, header, delta, opened, others if kind == "experts" else {})
        return path

    return written


@pytest.fixture(scope="session")
def golden() -> Callable[[str], tuple[dict[str, Tensor], dict[str, Any]]]:
    """The tensors and settings of one file in tests/golden."""

    def read(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with safe_open(Path(__file__).parent / "golden" / f"{name}.safetensors", "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["config"])  # noqa: SIM118

    return read
