"""The features that classifiers on one base see, each through its own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.delta_swap import Arena, Prepared
from fewshot_cli.engine.model.model import Model
from fewshot_cli.formats.delta.file import DeltaFile
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.jobs.classify.prediction.rows import probabilities_in
from fewshot_cli.jobs.context import Means
from fewshot_cli.jobs.features import Embedded, Look, embed
from fewshot_cli.jobs.models.classifiers import Loaded


def swapping_looks(backbone: Backbone, models: Mapping[str, Model]) -> dict[str, Look]:
    """The features that each model sees, by its name; those that leave the backbone as it is share the name "".

    There is one set of weights, which moves into an arena; each look swaps its delta in before it looks. A file with a
    graft has a module of its own, which shares these weights: it takes every delta off before it looks.
    """
    grafted = {name: model for name, model in models.items() if model.adapted.graft}
    deltas = {name: model.adapted.delta for name, model in models.items() if not model.adapted.graft}
    if not any(deltas.values()):
        return dict.fromkeys(deltas, backbone.frozen_features) | {n: m.features for n, m in grafted.items()}
    for model in grafted.values():
        assert model.moved  # its weights follow from the base's, as they are before anything is swapped in
    arena = Arena(backbone.module)
    ready = {name: arena.prepared(delta) for name, delta in deltas.items()}

    def look_through(model: Model) -> Look:
        def look(pictures: Tensor) -> Tensor:
            arena.restore()
            return model.features(pictures)

        return look

    def look_with(prepared: Prepared) -> Look:
        def look(pictures: Tensor) -> Tensor:
            arena.apply(prepared)
            return backbone.frozen_features(pictures)

        return look

    looks = {name: look_with(prepared) for name, prepared in ready.items()}
    return looks | {name: look_through(model) for name, model in grafted.items()}


def look_of(file: DeltaFile) -> str:
    return file.digest if file.moves else ""


def probabilities_of(loaded: Loaded, stored: Sequence[Stored], means: Means) -> tuple[Tensor, Embedded]:
    """Probabilities `(n, way)` of the readable pictures, on the CPU, and which of them these are."""
    embedded = seen_through(loaded, stored, means)
    return probabilities_in(loaded.model, embedded.features), embedded


def seen_through(loaded: Loaded, stored: Sequence[Stored], means: Means) -> Embedded:
    """What the model sees in the pictures."""
    name = look_of(loaded.file)
    return embed(loaded.backbone, stored, means.cache, means.progress, loaded.model.features, name)
