"""Which pictures to label next: those whose label would change a classifier's answers most."""

import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from fewshot_cli.engine.head.active_learning import LabelWorth, worthiest_labels
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import find_images
from fewshot_cli.jobs.classify.prediction.extractors import embed_with
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit.editable_file import known_in
from fewshot_cli.jobs.features import Embedded
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.run_record import SHORT_HASH, seconds_since
from fewshot_cli.results import NextResult, Skipped, ToLabel


def next_(path: Path, folder: Path, count: int, context: JobContext) -> NextResult:
    """The `count` pictures in the folder that a label would teach most, each as if those before it had theirs.

    What the classifier was learned from and copies are left out. Raises FewshotError where no picture is left, or the
    file lacks the features that it was learned from.
    """
    start = time.perf_counter()
    if count < 1:
        raise FewshotError(f"{count} pictures can't be named.", "Ask for one or more.")
    known = known_in(path, read_delta_file(path))
    paths = find_images([folder])
    if not folder.exists() or not paths:
        what = "There is no image in" if folder.exists() else "There is no folder"
        raise FewshotError(f"{what} {folder}.", "Give the folder with the pictures that have no label yet.")
    loaded = load_model(path, context.source, context.device)
    embedded = embed_with(loaded, [StoredFile(each) for each in paths], context)
    rows, copies = _new(embedded, known.contents)
    if not rows:
        raise FewshotError(
            f"No picture in {folder} is new: {copies} are known or copies, {len(embedded.problems)} can't be read.",
            "Give the folder with the pictures that have no label yet.",
        )
    features = embedded.features[rows]
    probabilities = loaded.model.answers(features).softmax(1).cpu()
    places = [embedded.readable[row] for row in rows]
    chosen = worthiest_labels(known.features, features.cpu(), probabilities, count)
    worth = max(chosen[0].worth, 1e-30)
    return NextResult(
        file=str(path),
        folder=str(folder),
        backbone=loaded.backbone.name,
        classes=loaded.classes,
        images=len(rows),
        known=copies,
        skipped=tuple(Skipped(str(paths[i]), found.reason) for i, found in sorted(embedded.problems.items())),
        pictures=tuple(
            _to_label(paths[places[each.row]], probabilities[each.row], loaded.classes, each, worth) for each in chosen
        ),
        seconds=seconds_since(start),
    )


def _new(embedded: Embedded, known: Sequence[str]) -> tuple[list[int], int]:
    """The rows whose content is not known, each once, and how many others there are."""
    first: dict[str, int] = {}
    for row, content in enumerate(embedded.contents):
        if content[:SHORT_HASH] not in known:
            first.setdefault(content, row)
    return list(first.values()), len(embedded.contents) - len(first)


def _to_label(path: Path, probabilities: Tensor, classes: Sequence[str], label: LabelWorth, most: float) -> ToLabel:
    best = probabilities.topk(2)
    top = tuple((classes[i], round(p, 6)) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True))
    return ToLabel(str(path), *top[0], top, round(label.worth / most, 4), label.alike)
