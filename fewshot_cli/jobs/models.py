"""A backbone from wherever its weights are, and delta files on their base."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from fewshot_cli.engine.adaptation import Adapted
from fewshot_cli.engine.device import home_of
from fewshot_cli.engine.grafts import Graft, check_graft
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import Backbone, fingerprint, with_twin
from fewshot_cli.engine.model.clip_names import is_two_towers
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.model.timm_models import build_backbone, parameter_shapes
from fewshot_cli.engine.model.timm_names import check_name, hub_repository, own_size
from fewshot_cli.engine.params import total_size
from fewshot_cli.engine.settings import Settings
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import BaseFacts, DeltaFile, read_any_delta_file, read_delta_file
from fewshot_cli.formats.delta.sections import KeptHead
from fewshot_cli.formats.weights import (
    PACKAGED,
    Weights,
    agreed_licence,
    hub_weights,
    licence_in,
    packaged_weights,
    read_weights,
)
from fewshot_cli.jobs.two_towers import load_towers, tower_shapes, towers_facts, towers_of
from fewshot_cli.methods import GRAFTS, TRANSDUCTIVE


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


def _on(device: torch.device, backbone: Backbone) -> Backbone:
    """The backbone for a run on this device, which may be for frozen passes alone."""
    return backbone if home_of(device) == device else with_twin(backbone, device)


@dataclass(frozen=True)
class Loaded:
    """A delta file on its base, as the model that it describes."""

    file: DeltaFile
    model: Model

    @property
    def backbone(self) -> Backbone:
        """The backbone that the classifier is on."""
        return self.model.backbone

    @property
    def head(self) -> Head:
        """The linear head. Raises FewshotError where it is transductive."""
        head = self.model.adapted.head
        if isinstance(head, TransductiveHead):
            raise FewshotError(
                "This classifier's head is transductive: it answers from all queries at once, so it can't be exported.",
                "`fewshot predict` and `fewshot eval` take it as it is.",
            )
        return head

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the head's rows."""
        return self.file.header.classes


def load_model(path: Path, source: Source, device: torch.device, several_labels: bool = False) -> Loaded:
    """The classifier in a delta file, ready to answer; with `several_labels` also one that gives an image several.

    Raises FewshotError for a damaged file, a base that can't be had, or a base other than the one it was made for.
    """
    file = read_any_delta_file(path) if several_labels else read_delta_file(path)
    backbone = load_base(file, source, device)
    check_base(file, backbone, path)
    return Loaded(file, Model(backbone, adapted_of(file, path)))


def loaded_on(backbone: Backbone, path: Path) -> Loaded:
    """The classifier in a delta file that was made on this very backbone just now."""
    file = read_delta_file(path)
    return Loaded(file, Model(backbone, adapted_of(file, path)))


def adapted_of(file: DeltaFile, path: Path) -> Adapted:
    """What the file says was learned. Raises FewshotError for a graft or head of a kind that this fewshot lacks."""
    graft = None
    if file.graft is not None:
        kind = _of_kind(file.graft.facts.kind, GRAFTS, "a graft", path)
        graft = Graft(kind, file.graft.facts.sites, file.graft.params)
    head = _transductive(file, file.head, path) if isinstance(file.head, KeptHead) else file.head
    return Adapted(file.delta, head, graft)


def _transductive(file: DeltaFile, kept: KeptHead, path: Path) -> TransductiveHead:
    method = _of_kind(kept.settings, TRANSDUCTIVE, "a head", path)
    assert file.support is not None  # as its header says
    known = file.support
    return TransductiveHead(method, known.features, known.labels, len(file.header.classes), kept.factor)


SettingsType = TypeVar("SettingsType", bound=Settings)


def _of_kind(settings: Mapping[str, Any], kinds: Sequence[type[SettingsType]], what: str, path: Path) -> SettingsType:
    """The settings as one of the `kinds`, told by their name."""
    named = {kind.model_fields["name"].default: kind for kind in kinds}
    name = str(settings.get("name"))
    if name not in named:
        raise FewshotError(f"{path} has {what} of the kind {name!r}, which this fewshot lacks.", "Update fewshot-cli.")
    try:
        return named[name].model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FewshotError(f"{path} is damaged: {what} of {name} has a wrong {where}.", "Make it again.") from None


def plain_head(file: DeltaFile, path: Path, doing: str) -> Head:
    """The linear head of a file that changes weights only. Raises FewshotError where there is more to it.

    `doing` says what else can't be done with it.
    """
    adapted = adapted_of(file, path)
    if adapted.graft is not None:
        raise FewshotError(
            f"{path} can't be {doing}: {adapted.graft.kind.why_not_merged}.",
            "`fewshot export --format onnx` takes it as it is.",
        )
    if isinstance(adapted.head, TransductiveHead):
        raise FewshotError(
            f"{path} can't be {doing}: its head is transductive and answers from all queries at once.",
            "`fewshot predict` and `fewshot eval` take it as it is.",
        )
    return adapted.head


def read_on_one_base(paths: Sequence[Path], several_labels: bool = False) -> list[DeltaFile]:
    """The classifiers in the delta files, with `several_labels` also those that give an image several.

    Raises FewshotError unless all have one base and prepare images alike.
    """
    files = [read_any_delta_file(path) if several_labels else read_delta_file(path) for path in paths]
    first = files[0].header.base
    for path, file in zip(paths, files, strict=True):
        base = file.header.base
        if not base.is_same_model(first):
            raise FewshotError(
                f"{paths[0]} and {path} are on different bases: {first.backbone} with fingerprint "
                f"{first.fingerprint[:12]}, and {base.backbone} with {base.fingerprint[:12]}.",
                "Only classifiers adapted from the same weights go together.",
            )
        if base.preprocessing != first.preprocessing:
            raise FewshotError(
                f"{paths[0]} and {path} prepare images in different ways: {_sides(first)} and {_sides(base)}, "
                "or another crop or scale.",
                "Only classifiers adapted at the same --image-size go together.",
            )
    return files


def _sides(base: BaseFacts) -> str:
    height, width = base.preprocessing.size
    return f"{height} x {width} px"


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


def check_base(file: DeltaFile, backbone: Backbone, path: Path) -> None:
    """Raises FewshotError unless the backbone is the one that the file was made for."""
    check_fingerprint(file.header.base, backbone, path, "adapted", file.header.touched)
    check_delta(file, backbone, path)


def check_fingerprint(
    base: BaseFacts, backbone: Backbone, path: Path, made: str, touched: Mapping[str, str] | None = None
) -> None:
    """Raises FewshotError unless the weights are those that `path` was made for; `made` says how.

    A classifier among them is no part of the backbone: it may be another, or missing, unless `path` is of before files
    said so. The error names the first parameter that is other than one of `touched`, the hashes of what `path` changes.
    """
    if not base.is_on_weights(backbone.fingerprint, backbone.body_fingerprint):
        others = [name for name, digest in (touched or {}).items() if _hash_of(name, backbone) != digest]
        where = f", and {others[0]}, which it changes, is another" if others else ""
        where += f", as are {len(others) - 1} more" if len(others) > 1 else ""
        raise FewshotError(
            f"These weights of {base.backbone} are not the ones {path} was made for: "
            f"fingerprint {backbone.fingerprint[:12]}, not {base.fingerprint[:12]}{where}.",
            f"Give --weights the very file that it was {made} from.",
        )


def _hash_of(name: str, backbone: Backbone) -> str:
    return fingerprint({name: backbone.params[name]}) if name in backbone.params else ""


def parameter_shapes_of(base: BaseFacts) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of the base, whose weights are not needed."""
    if base.towers is not None:
        return tower_shapes(base)
    return parameter_shapes(base.backbone, base.preprocessing.size[0])


def shapes_of(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The shape of each of the backbone's parameters, by name."""
    return {name: tuple(values.shape) for name, values in backbone.params.items()}


def check_shapes(
    changed: Mapping[str, tuple[int, ...]], known: Mapping[str, tuple[int, ...]], backbone: str, path: Path
) -> None:
    """Raises FewshotError unless the parameters that a file changes are among the backbone's, and of its shapes."""
    for name, shape in changed.items():
        if known.get(name) != tuple(shape):
            raise FewshotError(
                f"{path} changes {name} {tuple(shape)}, which {backbone} does not have.", "Make it again."
            )


def check_delta(file: DeltaFile, backbone: Backbone, path: Path) -> None:
    """Raises FewshotError unless the file's delta and head fit the backbone."""
    check_shapes(file.header.shapes, shapes_of(backbone), backbone.name, path)
    adapted = adapted_of(file, path)
    if adapted.graft is not None:
        try:
            check_graft(adapted.graft, backbone.module)
        except ValueError as error:
            raise FewshotError(
                f"{path} has a graft that does not fit {backbone.name}: {error}.", "Make it again."
            ) from None
    dim = adapted.graft.kind.width(backbone.dim) if adapted.graft else backbone.dim
    dims = {adapted.head.dim} | ({file.support.features.shape[1]} if file.support else set())
    if dims != {dim}:
        raise FewshotError(
            f"{path} has a head for {adapted.head.dim} features; {backbone.name} has {dim}.",
            "Make it again.",
        )


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
