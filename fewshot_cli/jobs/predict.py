"""A label and a probability for every image given."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from fewshot_cli import __version__
from fewshot_cli.files.cache import FeatureCache
from fewshot_cli.images.folders import find_images
from fewshot_cli.jobs.embedding import Embedded, embed
from fewshot_cli.jobs.loading import Model, Source, load_model
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.record import Report

TOP = 3  # runners-up to name


def predict(
    file: Path, inputs: Sequence[Path], source: Source, device: torch.device, cache: FeatureCache, progress: Progress
) -> Report:
    """One row for every image in `inputs`, in their order; a file that can't be read is a row with its error."""
    start = time.perf_counter()
    paths = find_images(inputs)
    model = load_model(file, source, device)
    probabilities, embedded = probabilities_of(model, paths, cache, progress)
    rows = {index: _row(paths[index], model, row) for index, row in zip(embedded.readable, probabilities, strict=True)}
    rows |= {index: _error(paths[index], problem.reason) for index, problem in embedded.problems.items()}
    return {
        "command": "predict",
        "version": __version__,
        "file": str(file),
        "backbone": model.backbone.name,
        "classes": list(model.classes),
        "images": len(embedded.readable),
        "predictions": [rows[index] for index in range(len(paths))],
        "seconds": {"total": round(time.perf_counter() - start, 3)},
    }


def probabilities_of(
    model: Model, paths: Sequence[Path], cache: FeatureCache, progress: Progress
) -> tuple[torch.Tensor, Embedded]:
    """Probabilities `(n, way)` of the readable files, on the CPU, and which files these are."""
    delta = model.file.digest if model.weights else ""
    embedded = embed(model.backbone, paths, cache, progress, model.weights, delta)
    head = model.file.head.to(embedded.features.device)
    return head.logits(embedded.features).softmax(1).cpu(), embedded


def _row(path: Path, model: Model, probabilities: torch.Tensor) -> Report:
    best = probabilities.topk(min(TOP, len(model.classes)))
    top = [[model.classes[i], round(p, 6)] for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    return {"path": str(path), "label": top[0][0], "probability": top[0][1], "top": top, "error": None}


def _error(path: Path, reason: str) -> Report:
    return {"path": str(path), "label": None, "probability": None, "top": [], "error": reason}
