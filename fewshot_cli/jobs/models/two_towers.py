"""Two-tower backbones from wherever their weights are, and what files say of them."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.build import build_towers, parameter_shapes
from fewshot_cli.engine.model.clip.description import Description, described_beside
from fewshot_cli.engine.model.clip.open_clip import described
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.header import BaseFacts, TowersFacts
from fewshot_cli.formats.weights import Weights, agreed_licence, hub_weights, licence_in, read_weights

BESIDE = "open_clip_config.json"
"""What open_clip writes beside weights, and what it calls these."""
ON_THE_HUB = "open_clip_model.safetensors"
TOKENIZER = "tokenizer.json"


def load_towers(
    name: str, weights: Path | None, offline: bool, image_size: int | None, device: torch.device
) -> TwoTowers:
    """The backbone "clip:MODEL/TAG". Words beside the weights file say what it is, whatever it is called.

    Raises FewshotError where weights or words are not to be had, or do not go together.
    """
    about = _about(name, weights)
    towers = build_towers(about, _weights(about, weights, offline), image_size, device)
    return towers if weights is None else replace(towers, licence=licence_in(weights))


def towers_facts(backbone: Backbone) -> TowersFacts | None:
    """What a file says of the towers; None of a backbone with one."""
    if not isinstance(backbone, TwoTowers):
        return None
    return TowersFacts(model=dict(backbone.model), repository=backbone.repository)


def towers_of(base: BaseFacts, weights: Path | None, offline: bool, device: torch.device) -> TwoTowers:
    """The backbone of these facts, which say all that open_clip would."""
    about = replace(_described_by(base), tokenizer_files=_tokenizer_beside(weights))
    found = _weights(about, weights, offline)
    towers = build_towers(about, found, base.preprocessing.size[0], device, checked=False)
    own = licence_in(weights) if weights else about.licence
    return replace(towers, preprocessing=base.preprocessing, licence=agreed_licence([base.licence, own]))


def tower_shapes(base: BaseFacts) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of both towers."""
    return parameter_shapes(_described_by(base), base.preprocessing.size)


def _described_by(base: BaseFacts) -> Description:
    assert base.towers is not None
    _, _, tag = base.backbone.partition("/")
    return Description(base.backbone, base.towers.model, {}, tag, base.towers.repository)


def _about(name: str, weights: Path | None) -> Description:
    beside = weights and weights.with_name(BESIDE)
    if beside and beside.is_file():
        about = described_beside(name, _words(beside))
        return replace(about, tokenizer_files=_tokenizer_beside(weights))
    return described(name)


def _tokenizer_beside(weights: Path | None) -> str:
    return str(weights.parent) if weights and weights.with_name(TOKENIZER).is_file() else ""


def _words(path: Path) -> Mapping[str, Any]:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FewshotError(f"{path} can't be read: {error}", "It is JSON, as open_clip writes it.") from None
    return words if isinstance(words, dict) else {}


def _weights(about: Description, weights: Path | None, offline: bool) -> Weights:
    if weights is not None:
        return read_weights(weights)
    if not about.repository:
        raise FewshotError(
            f"The Hugging Face hub has no weights of {about.name} that open_clip knows.",
            "Give --weights FILE, a safetensors file of it.",
        )
    return hub_weights(about.repository, offline, ON_THE_HUB)
