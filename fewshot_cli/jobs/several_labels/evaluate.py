"""How good a delta file of several labels is on a labelled folder."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fewshot_cli.engine.head.thresholds import above
from fewshot_cli.engine.trust.label_sets import by_class, exact_matches, macro_f1
from fewshot_cli.engine.trust.metrics import wilson
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.images.sources.label_sets import LabelSets, parts_of
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.evaluate import check_classes, record_of, recorded_at
from fewshot_cli.jobs.classify.prediction.extractors import embed_with
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.run_record import SHORT_HASH, data_hash, seconds_since, skipped, versions
from fewshot_cli.jobs.several_labels.learned import marks_of
from fewshot_cli.results import ExpectedAccuracy, LabelSetsResult, OfLabel


def evaluate_label_sets(path: Path, folder: Path, context: JobContext) -> LabelSetsResult:
    """Exact match with its 95 % interval, macro F1, and precision and recall of each class.

    The name of a class of the folder, or its parts between +, are the labels of its images. Raises FewshotError where
    one of them is not known to the file, or none of the images can be read.
    """
    start = time.perf_counter()
    labelled = read_labelled(folder, several=True)
    model = load_model(path, context.source, context.device, several_labels=True)
    sets = known_sets(str(path), model.classes, labelled)
    embedded = embed_with(model, [item.stored for item in labelled.items], context)
    names = [labelled.items[index].label for index in embedded.readable]
    if not names:
        raise FewshotError(
            f"No image in {folder} can be read.", f"`fewshot doctor {folder}` says what is wrong with each."
        )
    assert model.file.thresholds  # the command takes another way for files without
    answers = above(model.model.answers(embedded.features).cpu().double().sigmoid(), model.file.thresholds)
    marks = marks_of(names, sets, model.classes).bool()
    counts, found = by_class(answers, marks), wilson(exact_matches(answers, marks), len(marks))
    provenance = model.file.header.provenance
    return LabelSetsResult(
        file=str(path),
        sha256=model.file.digest,
        folder=str(labelled.root),
        backbone=model.backbone.name,
        method=model.file.header.method,
        classes=model.classes,
        images=len(names),
        skipped=skipped(labelled, embedded),
        accuracy=found.mean,
        low=found.low,
        high=found.high,
        n=found.n,
        learned_from=sum(content[:SHORT_HASH] in set(provenance.learned_from) for content in embedded.contents),
        macro_f1=macro_f1(counts),
        per_class={
            name: OfLabel(each.n, each.precision, each.recall, each.f1)
            for name, each in zip(model.classes, counts, strict=True)
        },
        expected_accuracy=ExpectedAccuracy(**provenance.expected_accuracy.model_dump()),
        data=data_hash(zip(names, embedded.contents, strict=True)),
        versions=versions(),
        seconds=seconds_since(start),
    )


def known_sets(file: str, classes: tuple[str, ...], labelled: Folder) -> LabelSets:
    """The labels of the images of each class of the folder. Raises FewshotError for one that the file lacks."""
    sets: Mapping[str, tuple[str, ...]] = {
        name: (name,) if name in classes else parts_of(name) or (name,) for name in labelled.classes
    }
    check_classes(file, classes, labelled, sorted({label for labels in sets.values() for label in labels}))
    return sets


def leave_record_of_sets(result: LabelSetsResult, output: Path | None) -> LabelSetsResult:
    """The result with where it is written, as `leave_record` does it."""
    record = output or record_of(Path(result.file), result.sha256, result.data)
    return recorded_at(record, replace(result, record=str(record)), asked=output is not None)
