"""How good a delta file is on a labelled folder."""

import hashlib
import json
import time
from pathlib import Path

import torch

from fewshot_cli import __version__
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.trust.metrics import calibration_error, confusion_matrix, wilson
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.sources.class_folders import Folder, read_folder
from fewshot_cli.jobs.classify.predict import probabilities_of
from fewshot_cli.jobs.models import Source, load_model
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.run_record import SHORT_HASH, Report, data_hash, skipped, versions
from fewshot_cli.storage.atomic import write_atomically
from fewshot_cli.storage.feature_cache import FeatureCache


def evaluate(
    file: Path, folder: Path, source: Source, device: torch.device, cache: FeatureCache, progress: Progress
) -> Report:
    """Accuracy with its 95 % interval, per class, confusion and calibration of the file's classifier on the folder.

    Classes are matched by name; those the folder lacks are only answers. Raises FewshotError where the folder has a
    class that the file does not know.
    """
    start = time.perf_counter()
    labelled = read_folder(folder)
    model = load_model(file, source, device)
    _check_classes(file, model.classes, labelled)
    probabilities, embedded = probabilities_of(model, [item.path for item in labelled.items], cache, progress)
    names = [labelled.items[index].label for index in embedded.readable]
    if not names:
        raise FewshotError(
            f"No image in {folder} can be read.", f"`fewshot doctor {folder}` says what is wrong with each."
        )
    labels = torch.tensor([model.classes.index(name) for name in names])
    confusion = confusion_matrix(probabilities.argmax(1), labels, len(model.classes))
    right, counts = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    found = wilson(sum(right), len(labels))
    provenance = model.file.header.provenance
    known = set(provenance.learned_from)
    asked = [(name, r, n) for name, r, n in zip(model.classes, right, counts, strict=True) if n]
    return {
        "command": "eval",
        "version": __version__,
        "file": str(file),
        "sha256": model.file.digest,
        "folder": str(folder),
        "backbone": model.backbone.name,
        "method": model.file.header.method,
        "transductive": isinstance(model.model.adapted.head, TransductiveHead),
        "classes": list(model.classes),
        "images": len(labels),
        "skipped": skipped(labelled, embedded),
        "accuracy": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "learned_from": sum(content[:SHORT_HASH] in known for content in embedded.contents),
        "balanced_accuracy": sum(r / n for _, r, n in asked) / len(asked),
        "per_class": {name: {"n": n, "accuracy": r / n} for name, r, n in asked},
        "confusion": confusion.tolist(),
        "ece": calibration_error(probabilities, labels),
        "expected_accuracy": provenance.expected_accuracy.model_dump(),
        "data": data_hash(zip(names, embedded.contents, strict=True)),
        "versions": versions(),
        "seconds": {"total": round(time.perf_counter() - start, 3)},
    }


def leave_record(report: Report, output: Path | None) -> Report:
    """Where the report is written: to `output`, else beside the file, under a name of file and images of its own.

    So the record of one folder is never replaced by that of another. Raises FewshotError where `output` can't be
    written; beside the file that is no reason to fail, and the record is None.
    """
    file = Path(report["file"])
    which = hashlib.sha256(f"{report['sha256']} {report['data']}".encode()).hexdigest()[:8]
    record = output or file.with_name(f"{file.name}.eval-{which}.run.json")
    told = {"record": str(record)}
    try:
        write_atomically(record, json.dumps(report | told, indent=2, ensure_ascii=False) + "\n")
    except FewshotError:
        if output:
            raise
        return {"record": None}
    return told


def _check_classes(file: Path, known: tuple[str, ...], labelled: Folder) -> None:
    strange = [name for name in labelled.classes if name not in known]
    if strange:
        some = ", ".join(f"'{name}'" for name in strange[:5]) + (" and more" if len(strange) > 5 else "")
        raise FewshotError(
            f"{labelled.root} has classes that {file} was not taught: {some}.",
            f"It knows {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}. "
            "Rename the folders to match, or take them out.",
        )
