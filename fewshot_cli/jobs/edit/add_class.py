"""A classifier with more classes, or more images of those it has: exactly what learning from all at once gives."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from fewshot_cli.engine.head.growing import NamedFeatures
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.sections import kept_support
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import (
    IMAGE_SUFFIXES,
    Item,
    entries,
    find_images,
    name_is_text,
    nfc,
)
from fewshot_cli.jobs.classify.prediction.extractors import embed_with
from fewshot_cli.jobs.context import Means
from fewshot_cli.jobs.edit.editable_file import EditableFile, kept_in
from fewshot_cli.jobs.edit.refit import refit, with_record
from fewshot_cli.jobs.features import Embedded
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.run_record import SHORT_HASH
from fewshot_cli.results import AddClassResult, Skipped
from fewshot_cli.storage.atomic import check_writable


def add_class(path: Path, folder: Path, name: str | None, output: Path, means: Means) -> AddClassResult:
    """Writes the classifier that knows the folder's images, too.

    The folder holds the images of one class, called `name` or as the folder is, or has a sub-folder for each of
    several. A class that the file has already gets more images. Raises FewshotError for a folder that says neither,
    and for a picture that the file knows in another class.
    """
    start = time.perf_counter()
    check_writable(output)
    kept = kept_in(path)
    items = labelled_images(folder, name)
    new, skipped = new_features(kept, items, means)
    result = refit(kept, kept.known.joined(new), range(len(kept.known)), output)
    counts = sorted(Counter(new.names).items())
    return with_record(
        result,
        AddClassResult,
        output,
        start,
        folder=str(folder),
        added={label: count for label, count in counts if label not in kept.known.classes},
        more={label: count for label, count in counts if label in kept.known.classes},
        skipped=skipped,
    )


def labelled_images(folder: Path, name: str | None = None) -> list[Item]:
    """The folder's files, each with its class: `name`, the sub-folder that it is in, or the folder's own name.

    Raises FewshotError for a folder that is empty, or has both images and sub-folders and no `name`.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "is not there"
        raise FewshotError(f"{folder} {what}.", "Give the folder with the images of the new class.")
    inside = entries(folder)
    images = [file for file in inside.files if file.suffix.lower() in IMAGE_SUFFIXES]
    if name is None and inside.folders and images:
        raise FewshotError(
            f"{folder} has both images, such as {images[0].name}, and folders, such as {inside.folders[0].name}.",
            "Give --name NAME where all of them are of one class; else a folder with a sub-folder for each class.",
        )
    if name is None and inside.folders:
        items = [Item(StoredFile(file), nfc(each.name)) for each in inside.folders for file in find_images([each])]
    else:
        label = nfc(name if name is not None else Path(os.path.abspath(folder)).name)  # noqa: PTH100  links keep their name
        items = [Item(StoredFile(file), label) for file in find_images([folder])]
    if not items:
        raise FewshotError(f"There is no image in {folder}.", "Put the images of the new class into it.")
    check_names({item.label for item in items})
    return items


def check_names(names: set[str]) -> None:
    """Raises FewshotError for the name of a class that a file can't carry."""
    for name in sorted(names):
        if not name.strip() or not name_is_text(name):
            raise FewshotError(f"A class can't be called {name!r}.", "Give it a name of letters.")


def new_features(kept: EditableFile, items: Sequence[Item], means: Means) -> tuple[NamedFeatures, tuple[Skipped, ...]]:
    """What the classifier's backbone sees in images that it doesn't know yet, as its file keeps it; and the others.

    Raises FewshotError where a picture is in two classes, or no image is left of a class.
    """
    loaded = load_model(kept.path, means.source, means.device)
    embedded = embed_with(loaded, [item.stored for item in items], means)
    rows, copies = _unknown(kept, items, embedded)
    bad = sorted(embedded.problems.items())
    skipped = (*(Skipped(str(items[place].path), problem.reason) for place, problem in bad), *copies)
    names = tuple(items[embedded.readable[row]].label for row in rows)
    for item in items:
        if item.label not in names and item.label not in kept.known.classes:
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


def _unknown(kept: EditableFile, items: Sequence[Item], embedded: Embedded) -> tuple[list[int], list[Skipped]]:
    """The rows of `embedded` whose content is new, and the others with the reason."""
    known = dict(zip(kept.known.contents, kept.known.names, strict=True))
    first: dict[str, Item] = {}
    rows, skipped = [], []
    for row, content in enumerate(embedded.contents):
        item, short = items[embedded.readable[row]], content[:SHORT_HASH]
        twin = first.setdefault(short, item)
        label = known.get(short, twin.label)
        if label != item.label:
            where = f"{kept.path} knows it" if short in known else f"{twin.path} is the same"
            raise FewshotError(
                f"{item.path} can't be of the class '{item.label}': {where} as '{label}'.",
                f"Remove it from the wrong class; `fewshot correct {kept.path} CSV` changes what the file knows.",
            )
        if short in known:
            skipped.append(Skipped(str(item.path), "it is known already"))
        elif twin is not item:
            skipped.append(Skipped(str(item.path), f"a copy of {twin.path}"))
        else:
            rows.append(row)
    return rows, skipped
