"""A label and a probability for every image given, by one classifier or by several on one base."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_ref import Stored
from fewshot_cli.images.sources.class_folders import find_images
from fewshot_cli.jobs.classify.prediction.counts import Count, promised
from fewshot_cli.jobs.classify.prediction.extractors import extractor_name
from fewshot_cli.jobs.classify.prediction.inputs import NOTHING, Promises
from fewshot_cli.jobs.classify.prediction.predictors import Predictors
from fewshot_cli.jobs.classify.prediction.rows import DEFAULT, Predictor, RowSettings, answers
from fewshot_cli.jobs.classify.prediction.rules import Rules
from fewshot_cli.jobs.classify.prediction.sorting import Sorting
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.features import features_by_each
from fewshot_cli.jobs.models.classifiers import Loaded
from fewshot_cli.jobs.run_record import seconds_since
from fewshot_cli.results import Prediction, PredictResult

Write: TypeAlias = Callable[[Sequence[Prediction]], None]


def predict(
    files: Sequence[Path],
    inputs: Sequence[Path],
    context: JobContext,
    write: Write | None = None,
    how: RowSettings = DEFAULT,
    more: Iterable[Sequence[Path]] = (),
    sorting: Sorting | None = None,
) -> PredictResult:
    """One row for every image in `inputs`, in their order; a file that can't be read is a row with its error.

    Of several delta files, which are on one base, each gives its row, which names it, in the order of `files`. With
    `write` the rows go there as they come, some at a time, and are not kept: the result only says how many there were.
    Then come the rows of `more` images, as these come, until there are none or somebody interrupts, which ends it well.
    With `sorting` every image is copied into the folder of its answer.
    """
    start = time.perf_counter()
    if sorting and len(files) > 1:
        raise FewshotError("Several classifiers give several answers to sort by.", "Give --sort-into with one file.")
    group = Predictors.of(files, context, how)
    if sorting:
        group.check_one_label()
        sorting.name_folders(group.classes)
    kept: list[Prediction] = []
    count = Count()

    def take(paths: Sequence[Path]) -> None:
        for rows in group.rows(paths, context):
            count.add(rows)
            (write or kept.extend)(sorting.rows(rows) if sorting else rows)

    if more:
        group.check_can_go_on()
    take(find_images(inputs))
    with suppress(KeyboardInterrupt):
        for paths in more:
            take(paths)
    return PredictResult(
        file=str(files[0]) if len(files) == 1 else None,
        backbone=group.backbone.name,
        classes=group.classes,
        images=(count.rows - count.unread) // len(files),
        unread=count.unread // len(files),
        transductive=group.is_transductive,
        predictions=tuple(kept) if write is None else None,
        files=group.classifier_files,
        sorted_into=sorting.done if sorting else None,
        seconds=seconds_since(start),
        **promised(group.predictors, count),
    )


def answered(
    loaded: Loaded, file: str, stored: Sequence[Stored], context: JobContext, promises: Promises = NOTHING
) -> PredictResult:
    """One row for every picture, by a classifier that is loaded already and that the result calls `file`."""
    start = time.perf_counter()
    name, rules = extractor_name(loaded.file), Rules.of(loaded.file, file, promises)
    predictor = Predictor(loaded.model, loaded.classes, name, rules=rules)
    seen = features_by_each(loaded.backbone, stored, context.cache, context.progress, {name: loaded.model.features})
    rows = [row for some in answers([predictor], [one.name for one in stored], seen) for row in some]
    count = Count()
    count.add(rows)
    return PredictResult(
        file=file,
        backbone=loaded.backbone.name,
        classes=loaded.classes,
        images=count.rows - count.unread,
        unread=count.unread,
        transductive=predictor.is_transductive,
        predictions=tuple(rows),
        seconds=seconds_since(start),
        **promised([predictor], count),
    )
