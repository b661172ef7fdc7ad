"""Which pictures to label next: those whose label would change a classifier's answers most."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli import __version__
from fewshot_cli.engine.head.active_learning import lessons
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import find_images
from fewshot_cli.jobs.edit.kept import known_in
from fewshot_cli.jobs.features import Embedded, embed
from fewshot_cli.jobs.models import Source, load_model
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.run_record import SHORT_HASH, Report
from fewshot_cli.storage.feature_cache import FeatureCache


def next_(
    path: Path,
    folder: Path,
    count: int,
    source: Source,
    device: torch.device,
    cache: FeatureCache,
    progress: Progress,
) -> Report:
    """The `count` pictures in the folder that a label would teach most, each as if those before it had theirs.

    What the classifier was learned from and copies are left out. Raises FewshotError where no picture is left, or the
    file lacks the features that it was learned from.
    """
    start = time.perf_counter()
    file = read_delta_file(path)
    known = known_in(path, file)
    paths = find_images([folder])
    if not folder.exists() or not paths:
        what = "There is no image in" if folder.exists() else "There is no folder"
        raise FewshotError(f"{what} {folder}.", "Give the folder with the pictures that have no label yet.")
    loaded = load_model(path, source, device)
    look = file.digest if file.moves else ""
    stored = [StoredFile(each) for each in paths]
    embedded = embed(loaded.backbone, stored, cache, progress, loaded.model.features, look)
    rows, copies = _new(embedded, known.contents)
    if not rows:
        raise FewshotError(
            f"No picture in {folder} is new: {copies} are known or copies, {len(embedded.problems)} can't be read.",
            "Give the folder with the pictures that have no label yet.",
        )
    features = embedded.features[rows].cpu()
    probabilities = loaded.model.answers(embedded.features[rows]).softmax(1).cpu()
    chosen = lessons(known.features, features, probabilities, count)
    best = max(chosen[0].worth, 1e-30)
    places = [embedded.readable[row] for row in rows]
    return {
        "command": "next",
        "version": __version__,
        "file": str(path),
        "folder": str(folder),
        "backbone": loaded.backbone.name,
        "classes": list(loaded.classes),
        "images": len(rows),
        "known": copies,
        "skipped": [{"path": str(paths[i]), "reason": found.reason} for i, found in sorted(embedded.problems.items())],
        "pictures": [
            _row(paths[places[lesson.row]], probabilities[lesson.row], loaded.classes)
            | {"worth": round(lesson.worth / best, 4), "alike": lesson.alike}
            for lesson in chosen
        ],
        "seconds": {"total": round(time.perf_counter() - start, 3)},
    }


def _new(embedded: Embedded, known: Sequence[str]) -> tuple[list[int], int]:
    """The rows whose content is not known, each once, and how many others there are."""
    first: dict[str, int] = {}
    for row, content in enumerate(embedded.contents):
        if content[:SHORT_HASH] not in known:
            first.setdefault(content, row)
    return list(first.values()), len(embedded.contents) - len(first)


def _row(path: Path, probabilities: Tensor, classes: Sequence[str]) -> Report:
    best = probabilities.topk(2)
    top = [[classes[i], round(p, 6)] for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
    return {"path": str(path), "label": top[0][0], "probability": top[0][1], "top": top}
