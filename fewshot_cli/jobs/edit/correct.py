"""A classifier fitted anew after labels were corrected, or new images were labelled."""

import time
from collections.abc import Sequence
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import Item, class_name
from fewshot_cli.images.sources.corrections import Correction, corrections
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit.add_class import new_features
from fewshot_cli.jobs.edit.checks import changing, check_known
from fewshot_cli.jobs.edit.editable_file import EditableFile, read_editable
from fewshot_cli.jobs.edit.refit import refit, with_record
from fewshot_cli.jobs.run_record import SHORT_HASH
from fewshot_cli.results import Corrected, CorrectResult, Skipped


def correct(path: Path, listed: Path, output: Path, context: JobContext) -> CorrectResult:
    """Writes the classifier that is learned when pictures are of the classes that the list says.

    A picture that it was learned from gets that label; any other is learned from, too. Raises FewshotError for a class
    that the file lacks, for a list that says nothing new, and where a class would lose its last image.
    """
    start = time.perf_counter()
    with changing(output):
        rows = corrections(listed)
        editable = read_editable(path)
        for row in rows:
            check_known(_label(row, editable), editable.file.header.classes, path)
        said, skipped = _said(rows, editable, listed)
        before = dict(zip(editable.known.contents, editable.known.names, strict=True))
        wrong = {content: item.label for content, item in said.items() if before.get(content, item.label) != item.label}
        new = [item for content, item in said.items() if content not in before]
        if not wrong and not new:
            raise FewshotError(
                f"{listed} says nothing that {path} doesn't know: {len(said)} of its rows name pictures that it was "
                f"learned from, under the label that they have; {len(skipped)} can't be read.",
                "Give the pictures whose class is another, or that are new.",
            )
        known = editable.known.relabelled(wrong)
        _check_classes(editable, known.classes)
        if new:
            found, others = new_features(editable, new, context)
            known, skipped = known.joined(found), [*skipped, *others]
        return with_record(
            refit(editable, known, range(len(editable.known)), output),
            CorrectResult,
            output,
            start,
            list=str(listed),
            corrected=tuple(Corrected(str(said[each].path), before[each], label) for each, label in wrong.items()),
            learned=len(known) - len(editable.known),
            skipped=tuple(skipped),
        )


def _label(row: Correction, editable: EditableFile) -> str:
    """The class; without the apostrophe that a spreadsheet wants in front of what looks like a formula."""
    spelled = (row.label, row.label.removeprefix("'"), class_name(row.label))
    return next((name for name in spelled if name in editable.file.header.classes), row.label)


def _said(rows: Sequence[Correction], editable: EditableFile, listed: Path) -> tuple[dict[str, Item], list[Skipped]]:
    """The pictures that can be read with their classes, by content; and the others with the reason.

    Raises FewshotError for a picture that is said to be of two classes.
    """
    said: dict[str, Item] = {}
    skipped = []
    for row in rows:
        item = Item(StoredFile(row.path), _label(row, editable))
        try:
            content = item.stored.content_hash()[:SHORT_HASH]
        except ImageError as error:
            skipped.append(Skipped(str(row.path), error.reason))
            continue
        if said.setdefault(content, item).label != item.label:
            raise FewshotError(
                f"{listed}, line {row.line}: {row.path} is '{item.label}' here and '{said[content].label}' before.",
                "Keep the right line only.",
            )
    return said, skipped


def _check_classes(editable: EditableFile, left: Sequence[str]) -> None:
    for name in editable.known.classes:
        if name not in left:
            raise FewshotError(
                f"No image of the class '{name}' would be left.",
                f"`fewshot remove-class {editable.path} '{name}'` takes the class away, `add-class` gives it more "
                "images.",
            )
