"""A backbone from wherever its weights are, and what files say of it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fewshot_cli.engine.device import home_of
from fewshot_cli.engine.model.backbone import Backbone, with_twin
from fewshot_cli.engine.model.clip.names import is_two_towers
from fewshot_cli.engine.model.timm_models import build_backbone, parameter_shapes
from fewshot_cli.engine.model.timm_names import check_name, hub_repository, own_size
from fewshot_cli.engine.params import total_size
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import BaseFacts, DeltaFile
from fewshot_cli.formats.weights import (
    PACKAGED,
    Weights,
    agreed_licence,
    hub_weights,
    licence_in,
    packaged_weights,
    read_weights,
)
from fewshot_cli.jobs.models.two_towers import load_towers, tower_shapes, towers_facts, towers_of


@dataclass(frozen=True)
class Source:
    """Where weights may come from: a file, or the install, the cache and, unless `offline`, the network."""

    weights: Path | None = None
    offline: bool = False


def load_backbone(name: str, source: Source, image_size: int | None, device: torch.device) -> Backbone:
    """The backbone `name`, its weights from where `source` says. Raises FewshotError where they are not to be had.

    What timm states of their licence holds for weights that timm names, and not for a file of whatever origin.
    """
    if is_two_towers(name):
        return _on(device, load_towers(name, source.weights, source.offline, image_size, home_of(device)))
    check_name(name)
    backbone = _on(device, build_backbone(name, _weights(name, source), image_size, home_of(device)))
    return backbone if source.weights is None else replace(backbone, licence=licence_in(source.weights))


def load_base(file: DeltaFile, source: Source, device: torch.device) -> Backbone:
    """The backbone that the file names, preparing images as it did when the file was made, whatever timm says today."""
    return load_facts(file.header.base, source, device)


def load_facts(base: BaseFacts, source: Source, device: torch.device) -> Backbone:
    """The backbone of these facts, preparing images as they say; whether it is the same is for the caller to check.

    If it is, what the facts state of its licence holds, wherever the weights come from this time.
    """
    if base.towers is not None:
        return _on(device, towers_of(base, source.weights, source.offline, home_of(device)))
    check_name(base.backbone)
    size = base.preprocessing.size[0]
    backbone = load_backbone(base.backbone, source, None if size == own_size(base.backbone) else size, device)
    licence = agreed_licence([base.licence, backbone.licence])
    return replace(backbone, preprocessing=base.preprocessing, licence=licence)


def facts_of(backbone: Backbone) -> BaseFacts:
    """What a file says of the backbone that it belongs to."""
    return BaseFacts(
        backbone=backbone.name,
        fingerprint=backbone.fingerprint,
        body=backbone.body_fingerprint if backbone.classifier else None,
        size=total_size(backbone.params),
        licence=backbone.licence,
        preprocessing=backbone.preprocessing,
        towers=towers_facts(backbone),
    )


def parameter_shapes_of(base: BaseFacts) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of the base, whose weights are not needed."""
    if base.towers is not None:
        return tower_shapes(base)
    return parameter_shapes(base.backbone, base.preprocessing.size[0])


def shapes_of(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The shape of each of the backbone's parameters, by name."""
    return {name: tuple(values.shape) for name, values in backbone.params.items()}


def _on(device: torch.device, backbone: Backbone) -> Backbone:
    """The backbone for a run on this device, which may be for frozen passes alone."""
    return backbone if home_of(device) == device else with_twin(backbone, device)


def _weights(name: str, source: Source) -> Weights:
    if source.weights is not None:
        return read_weights(source.weights)
    if name == PACKAGED:
        return packaged_weights()
    repository = hub_repository(name)
    if repository is None:
        raise FewshotError(
            f"timm has no weights of {name} on the Hugging Face hub.", "Give --weights FILE, a safetensors file of it."
        )
    return hub_weights(repository, source.offline)
