"""From pictures to features, by each of several classifiers on one base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.delta_swap import ParameterBuffer, Prepared
from fewshot_cli.engine.model.model import Model
from fewshot_cli.formats.delta.file import DeltaFile
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.jobs.classify.prediction.rows import probabilities_in
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.features import Embedded, FeatureExtractor, embed
from fewshot_cli.jobs.models.classifiers import Loaded


def swapping_extractors(backbone: Backbone, models: Mapping[str, Model]) -> dict[str, FeatureExtractor]:
    """The features that each model sees, by its name; those that leave the backbone as it is share the name "".

    There is one set of weights, which moves into one flat buffer; each extractor swaps its delta in first. A file with
    a graft has a module of its own, which shares these weights: its extractor takes every delta off first.
    """
    grafted = {name: model for name, model in models.items() if model.adapted.graft}
    deltas = {name: model.adapted.delta for name, model in models.items() if not model.adapted.graft}
    if not any(deltas.values()):
        return dict.fromkeys(deltas, backbone.frozen_features) | {n: m.features for n, m in grafted.items()}
    for model in grafted.values():
        assert model.moved  # its weights follow from the base's, as they are before anything is swapped in
    arena = ParameterBuffer(backbone.module)
    ready = {name: arena.prepared(delta) for name, delta in deltas.items()}

    def extractor_of_graft(model: Model) -> FeatureExtractor:
        def extractor(pictures: Tensor) -> Tensor:
            arena.restore()
            return model.features(pictures)

        return extractor

    def extractor_of_delta(prepared: Prepared) -> FeatureExtractor:
        def extractor(pictures: Tensor) -> Tensor:
            arena.apply(prepared)
            return backbone.frozen_features(pictures)

        return extractor

    extractors = {name: extractor_of_delta(prepared) for name, prepared in ready.items()}
    return extractors | {name: extractor_of_graft(model) for name, model in grafted.items()}


def extractor_name(file: DeltaFile) -> str:
    return file.digest if file.moves else ""


def probabilities_of(loaded: Loaded, stored: Sequence[Stored], context: JobContext) -> tuple[Tensor, Embedded]:
    """Probabilities `(n, way)` of the readable pictures, on the CPU, and which of them these are."""
    embedded = embed_with(loaded, stored, context)
    return probabilities_in(loaded.model, embedded.features), embedded


def embed_with(loaded: Loaded, stored: Sequence[Stored], context: JobContext) -> Embedded:
    """The features of the pictures by the classifier's own weights."""
    name = extractor_name(loaded.file)
    return embed(loaded.backbone, stored, context.cache, context.progress, loaded.model.features, name)
