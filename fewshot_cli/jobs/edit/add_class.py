"""A classifier with more classes, or more images of those it has: exactly what learning from all at once gives."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from fewshot_cli.engine.head.growing import NamedFeatures
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.sections import kept_support
from fewshot_cli.images.sources.class_folders import Item
from fewshot_cli.jobs.classify.prediction.extractors import embed_with
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit.checks import changing
from fewshot_cli.jobs.edit.editable_file import EditableFile, read_editable
from fewshot_cli.jobs.edit.new_images import labelled_images
from fewshot_cli.jobs.edit.refit import refit, with_record
from fewshot_cli.jobs.features import Embedded
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.run_record import SHORT_HASH
from fewshot_cli.results import AddClassResult, Skipped


def add_class(path: Path, folder: Path, name: str | None, output: Path, context: JobContext) -> AddClassResult:
    """Writes the classifier that knows the folder's images, too.

    The folder holds the images of one class, called `name` or as the folder is, or has a sub-folder for each of
    several. A class that the file has already gets more images. Raises FewshotError for a folder that says neither,
    and for a picture that the file knows in another class.
    """
    start = time.perf_counter()
    with changing(output):
        editable = read_editable(path)
        items = labelled_images(folder, name)
        new, skipped = new_features(editable, items, context)
        result = refit(editable, editable.known.joined(new), range(len(editable.known)), output)
        counts = sorted(Counter(new.names).items())
        return with_record(
            result,
            AddClassResult,
            output,
            start,
            folder=str(folder),
            added={label: count for label, count in counts if label not in editable.known.classes},
            more={label: count for label, count in counts if label in editable.known.classes},
            skipped=skipped,
        )


def new_features(
    editable: EditableFile, items: Sequence[Item], context: JobContext
) -> tuple[NamedFeatures, tuple[Skipped, ...]]:
    """What the classifier's backbone sees in images that it doesn't know yet, as its file keeps it; and the others.

    Raises FewshotError where a picture is in two classes, or no image is left of a class.
    """
    loaded = load_model(editable.path, context.source, context.device)
    embedded = embed_with(loaded, [item.stored for item in items], context)
    rows, copies = _unknown(editable, items, embedded)
    bad = sorted(embedded.problems.items())
    skipped = (*(Skipped(str(items[place].path), problem.reason) for place, problem in bad), *copies)
    names = tuple(items[embedded.readable[row]].label for row in rows)
    for item in items:
        if item.label not in names and item.label not in editable.known.classes:
            raise FewshotError(
                f"No image of the class '{item.label}' can be used: {skipped[0].path}: {skipped[0].reason}.",
                "Give other images of it.",
            )
    if not rows:
        raise FewshotError(
            f"There is nothing to add: {skipped[0].path}: {skipped[0].reason}.", "Give images that are new."
        )
    features = kept_support(embedded.features[rows], torch.zeros(len(rows))).features
    contents = tuple(embedded.contents[row][:SHORT_HASH] for row in rows)
    return NamedFeatures(features, names, contents), skipped


def _unknown(editable: EditableFile, items: Sequence[Item], embedded: Embedded) -> tuple[list[int], list[Skipped]]:
    """The rows of `embedded` whose content is new, and the others with the reason."""
    known = dict(zip(editable.known.contents, editable.known.names, strict=True))
    first: dict[str, Item] = {}
    rows, skipped = [], []
    for row, content in enumerate(embedded.contents):
        item, short = items[embedded.readable[row]], content[:SHORT_HASH]
        twin = first.setdefault(short, item)
        label = known.get(short, twin.label)
        if label != item.label:
            where = f"{editable.path} knows it" if short in known else f"{twin.path} is the same"
            raise FewshotError(
                f"{item.path} can't be of the class '{item.label}': {where} as '{label}'.",
                f"Remove it from the wrong class; `fewshot correct {editable.path} CSV` changes what the file knows.",
            )
        if short in known:
            skipped.append(Skipped(str(item.path), "it is known already"))
        elif twin is not item:
            skipped.append(Skipped(str(item.path), f"a copy of {twin.path}"))
        else:
            rows.append(row)
    return rows, skipped
