"""How good a delta file is on a labelled folder."""

import hashlib
import json
import time
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.trust.metrics import calibration_error, confusion_matrix, wilson
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import UNKNOWN, Folder
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.prediction.extractors import embed_with
from fewshot_cli.jobs.classify.prediction.inputs import NOTHING, Promises
from fewshot_cli.jobs.classify.prediction.measured import measured
from fewshot_cli.jobs.classify.prediction.rules import Rules
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.features import Embedded
from fewshot_cli.jobs.models.classifiers import Loaded, load_model
from fewshot_cli.jobs.run_record import SHORT_HASH, data_hash, seconds_since, skipped, versions
from fewshot_cli.results import ClassAccuracy, EvalResult, ExpectedAccuracy, LabelSetsResult, RecordedEvalResult
from fewshot_cli.storage.atomic import write_atomically


def evaluate(file: Path, folder: Path, context: JobContext, promises: Promises = NOTHING) -> EvalResult:
    """Accuracy with its 95 % interval, per class, confusion and calibration of the file's classifier.

    `folder` may be a zip or a list, too. Classes are matched by name; those it lacks are only answers. With `promises`
    it says what came of them, also on pictures of nothing in `_unknown/`. Raises FewshotError where it has a class that
    the file does not know.
    """
    start = time.perf_counter()
    labelled = read_labelled(folder)
    model = load_model(file, context.source, context.device)
    result = evaluated(model, str(file), labelled, context, promises)
    return replace(result, seconds=seconds_since(start))


def evaluated(
    model: Loaded, file: str, labelled: Folder, context: JobContext, promises: Promises = NOTHING
) -> EvalResult:
    """How good a classifier that is loaded already, and that messages call `file`, is on labelled images.

    Raises FewshotError where they have a class that it does not know, or none of them can be read.
    """
    start = time.perf_counter()
    rules, known_names = Rules.of(model.file, file, promises), set(model.classes)
    if promises.refuse is not None:
        known_names.add(UNKNOWN)
    check_classes(file, known_names, labelled, labelled.classes)
    embedded = embed_with(model, [item.stored for item in labelled.items], context)
    logits = model.model.answers(embedded.features).cpu()
    shown = [labelled.items[index].label for index in embedded.readable]
    if not any(name in model.classes for name in shown):
        raise FewshotError(
            f"No image in {labelled.root} can be read.",
            f"`fewshot doctor {labelled.root}` says what is wrong with each.",
        )
    result = _result(model, file, labelled, embedded, shown, logits)
    return replace(result, **measured(rules, promises, logits, shown), seconds=seconds_since(start))


def _result(
    model: Loaded, file: str, labelled: Folder, embedded: Embedded, shown: Sequence[str], logits: Tensor
) -> EvalResult:
    """What logits `(n, way)` of pictures are worth whose true classes are `shown`; those it lacks are left out."""
    rows = [row for row, name in enumerate(shown) if name in model.classes]
    probabilities = logits[rows].softmax(1)
    labels = torch.tensor([model.classes.index(shown[row]) for row in rows])
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
        learned_from=sum(embedded.contents[row][:SHORT_HASH] in known for row in rows),
        balanced_accuracy=sum(r / n for _, r, n in asked) / len(asked),
        per_class={name: ClassAccuracy(n, r / n) for name, r, n in asked},
        confusion=tuple(map(tuple, confusion.tolist())),
        ece=calibration_error(probabilities, labels),
        expected_accuracy=ExpectedAccuracy(**provenance.expected_accuracy.model_dump()),
        data=data_hash(zip(shown, embedded.contents, strict=True)),
        versions=versions(),
        seconds={},
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


def check_classes(file: str, known: Collection[str], labelled: Folder, names: Sequence[str]) -> None:
    """Raises FewshotError where one of the names of labels in the folder is not known to the file."""
    strange = [name for name in names if name not in known]
    if strange:
        some = ", ".join(f"'{name}'" for name in strange[:5]) + (" and more" if len(strange) > 5 else "")
        taught = sorted(known)
        refusing = " With --refuse, _unknown/ holds pictures of none of the classes." if UNKNOWN in strange else ""
        raise FewshotError(
            f"{labelled.root} has classes that {file} was not taught: {some}.",
            f"It knows {', '.join(taught[:8])}{', ...' if len(taught) > 8 else ''}. "
            f"Rename the folders to match, or take them out.{refusing}",
        )
