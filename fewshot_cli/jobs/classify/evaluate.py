"""How good a delta file is on a labelled folder."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import torch

from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.trust.metrics import calibration_error, confusion_matrix, wilson
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.prediction.extractors import probabilities_of
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.classifiers import Loaded, load_model
from fewshot_cli.jobs.run_record import SHORT_HASH, data_hash, seconds_since, skipped, versions
from fewshot_cli.results import ClassAccuracy, EvalResult, ExpectedAccuracy, LabelSetsResult, RecordedEvalResult
from fewshot_cli.storage.atomic import write_atomically


def evaluate(file: Path, folder: Path, context: JobContext) -> EvalResult:
    """Accuracy with its 95 % interval, per class, confusion and calibration of the file's classifier.

    `folder` may be a zip or a list, too. Classes are matched by name; those it lacks are only answers. Raises
    FewshotError where it has a class that the file does not know.
    """
    start = time.perf_counter()
    labelled = read_labelled(folder)
    model = load_model(file, context.source, context.device)
    result = evaluated(model, str(file), labelled, context)
    return replace(result, seconds=seconds_since(start))


def evaluated(model: Loaded, file: str, labelled: Folder, context: JobContext) -> EvalResult:
    """How good a classifier that is loaded already, and that messages call `file`, is on labelled images.

    Raises FewshotError where they have a class that it does not know, or none of them can be read.
    """
    start = time.perf_counter()
    check_classes(file, model.classes, labelled, labelled.classes)
    probabilities, embedded = probabilities_of(model, [item.stored for item in labelled.items], context)
    names = [labelled.items[index].label for index in embedded.readable]
    if not names:
        raise FewshotError(
            f"No image in {labelled.root} can be read.",
            f"`fewshot doctor {labelled.root}` says what is wrong with each.",
        )
    labels = torch.tensor([model.classes.index(name) for name in names])
    confusion = confusion_matrix(probabilities.argmax(1), labels, len(model.classes))
    right, counts = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    found = wilson(sum(right), len(labels))
    provenance = model.file.header.provenance
    known = set(provenance.learned_from)
    asked = [(name, r, n) for name, r, n in zip(model.classes, right, counts, strict=True) if n]
    return EvalResult(
        file=file,
        sha256=model.file.digest,
        folder=str(labelled.root),
        backbone=model.backbone.name,
        method=model.file.header.method,
        transductive=isinstance(model.model.adapted.head, TransductiveHead),
        classes=model.classes,
        images=len(labels),
        skipped=skipped(labelled, embedded),
        accuracy=found.mean,
        low=found.low,
        high=found.high,
        n=found.n,
        learned_from=sum(content[:SHORT_HASH] in known for content in embedded.contents),
        balanced_accuracy=sum(r / n for _, r, n in asked) / len(asked),
        per_class={name: ClassAccuracy(n, r / n) for name, r, n in asked},
        confusion=tuple(map(tuple, confusion.tolist())),
        ece=calibration_error(probabilities, labels),
        expected_accuracy=ExpectedAccuracy(**provenance.expected_accuracy.model_dump()),
        data=data_hash(zip(names, embedded.contents, strict=True)),
        versions=versions(),
        seconds=seconds_since(start),
    )


def leave_record(result: EvalResult, output: Path | None) -> RecordedEvalResult:
    """The result with where it is written: to `output`, else beside the file, under a name of file and images.

    So the record of one folder is never replaced by that of another. Raises FewshotError where `output` can't be
    written; beside the file that is no reason to fail, and the record is None.
    """
    record = output or record_of(Path(result.file), result.sha256, result.data)
    facts = {each.name: getattr(result, each.name) for each in fields(result)}
    return recorded_at(record, RecordedEvalResult(**facts, record=str(record)), asked=output is not None)


Recorded = TypeVar("Recorded", RecordedEvalResult, LabelSetsResult)


def recorded_at(record: Path, result: Recorded, asked: bool) -> Recorded:
    """Writes the result. Where that can't be, raises FewshotError if it was `asked` for, else its record is None."""
    try:
        write_atomically(record, json.dumps(result.report(), indent=2, ensure_ascii=False) + "\n")
    except FewshotError:
        if asked:
            raise
        return replace(result, record=None)
    return result


def record_of(file: Path, digest: str, data: str) -> Path:
    """Where the record of a file of this digest on images of this hash lies, beside the file."""
    which = hashlib.sha256(f"{digest} {data}".encode()).hexdigest()[:8]
    return file.with_name(f"{file.name}.eval-{which}.run.json")


def check_classes(file: str, known: Sequence[str], labelled: Folder, names: Sequence[str]) -> None:
    """Raises FewshotError where one of the names of labels in the folder is not known to the file."""
    strange = [name for name in names if name not in known]
    if strange:
        some = ", ".join(f"'{name}'" for name in strange[:5]) + (" and more" if len(strange) > 5 else "")
        raise FewshotError(
            f"{labelled.root} has classes that {file} was not taught: {some}.",
            f"It knows {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}. "
            "Rename the folders to match, or take them out.",
        )
