"""A classifier fitted anew to other images, written and proved, with what became of the classes that it had before."""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from fewshot_cli.engine.head.growing import NamedFeatures
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.trust.metrics import wilson
from fewshot_cli.formats.delta.file import (
    DeltaFile,
    Expected,
    Header,
    HeadValues,
    HeldOutScores,
    head_as_stored,
    write_delta_file,
)
from fewshot_cli.formats.delta.head import narrowest_head
from fewshot_cli.formats.delta.sections import KeptHead, KeptSupport, kept_support
from fewshot_cli.jobs.classify.held_out import HeldOut, left_out_one_by_one, scores_of, sharpening_of
from fewshot_cli.jobs.edit.editable_file import EditableFile
from fewshot_cli.jobs.proofs.contents import check_contents
from fewshot_cli.jobs.proofs.logits import check_labels
from fewshot_cli.jobs.run_record import data_hash, seconds_since, versions, write_run
from fewshot_cli.results import ComesFrom, EditResult, ExpectedAccuracy, OldClasses, Share
from fewshot_cli.storage.atomic import staged

AnyEditResult = TypeVar("AnyEditResult", bound=EditResult)

TRAINED = "the backbone was trained on some of these images, which can't be left out of it; `fewshot eval` can tell"


@dataclass(frozen=True)
class Fitted:
    """A head fitted to images, and what heads fitted without each of them say of it, or why that can't be known."""

    known: NamedFeatures
    head: Head
    held_out: HeldOut | str
    trained: bool
    scores: HeldOutScores | None = None

    @property
    def expected(self) -> Expected:
        """The accuracy to expect on new images."""
        if self.trained:
            return Expected(mean=None, low=None, high=None, how=TRAINED)
        if isinstance(self.held_out, str):
            return Expected(mean=None, low=None, high=None, how=self.held_out)
        found = self.held_out.expected
        return Expected(mean=found.mean, low=found.low, high=found.high, how=self.held_out.how)

    @property
    def right(self) -> dict[int, bool]:
        """Whether the answer about each image that could be left out is right, by its row."""
        if isinstance(self.held_out, str):
            return {}
        labels = self.known.labels
        counts = torch.bincount(labels)
        rows = (counts[labels] > 1).nonzero().squeeze(1).tolist()
        right = self.held_out.logits.argmax(1) == self.held_out.labels
        return dict(zip(rows, right.tolist(), strict=True))


def fitted(editable: EditableFile, known: NamedFeatures) -> Fitted:
    """The head that `adapt` would fit to these images, its probabilities sharpened by the same rule.

    Where the backbone was trained on some of them, as much as the file's own head is: that was found by folds.
    """
    way = len(known.classes)
    head = editable.head.head(known.features, known.labels, way)
    held_out = left_out_one_by_one(editable.head, known.features, known.labels, way)
    factor, scores = 1.0, None
    if editable.trained:
        factor = _sharpening(editable)
    elif isinstance(held_out, HeldOut):
        factor = sharpening_of(held_out, editable.head, known.features.shape[1])
        scores = scores_of(held_out, editable.head, factor, known.classes)
    return Fitted(known, head.sharpened(factor), held_out, editable.trained, scores)


def _sharpening(editable: EditableFile) -> float:
    """How many times as large the weights of the file's head are as those of its formula."""
    plain = editable.head.head(editable.known.features, editable.known.labels, len(editable.known.classes)).weight
    written = editable.file.head
    factor = float((written.weight * plain).sum() / plain.square().sum()) if isinstance(written, Head) else 1.0
    return factor if factor > 0 else 1.0


def refit(editable: EditableFile, known: NamedFeatures, rows: Collection[int], output: Path) -> EditResult:
    """Writes the classifier fitted to the images that are known now; says what the change was worth.

    The first of `known` are the `rows` of those known before; on the images of these in classes of both, the accuracy
    before and after is compared. How the backbone moves stays. Raises CheckFailed where what was written does not give
    the answers that it should.
    """
    before, after = fitted(editable, editable.known), fitted(editable, known)
    support = kept_support(known.features, known.labels)
    header = _header(editable.file, after)
    head_values = _narrowest(editable.file, after)
    with staged(output) as draft:
        size = write_changed(draft, editable.file, header, after.head, head_values, support)
        _prove(draft, editable.file, after, head_values)
    return _compared(edited(editable.path, editable.file, output, header, size), before, after, rows)


def with_record(
    result: EditResult, kind: type[AnyEditResult], output: Path, start: float, **facts: Any
) -> AnyEditResult:
    """The result of one command, whose record is left beside the output."""
    shared = {each.name: getattr(result, each.name) for each in fields(result)}
    whole = kind(**(shared | {"seconds": seconds_since(start)} | facts))
    write_run(output, whole)
    return whole


def write_changed(
    draft: Path, file: DeltaFile, header: Header, head: Head | KeptHead, values: HeadValues, support: KeptSupport | None
) -> int:
    """Writes the file with another header, head and support set, and gives its size in bytes."""
    return write_delta_file(draft, header, file.delta, head, file.stored.values, values, file.graft, support)


def edited(path: Path, file: DeltaFile, output: Path, header: Header, size: int) -> EditResult:
    """The result that every change of a classifier has."""
    provenance = header.provenance
    return EditResult(
        seed=provenance.seed,
        backbone=header.base.backbone,
        method=header.method,
        classes=header.classes,
        classes_before=file.header.classes,
        images=provenance.images,
        file=str(output),
        bytes=size,
        comes_from=ComesFrom(str(path), file.digest),
        in_place=output == path,
        expected_accuracy=ExpectedAccuracy(**provenance.expected_accuracy.model_dump()),
        data=provenance.data,
        versions=provenance.versions,
    )


def _header(file: DeltaFile, after: Fitted) -> Header:
    known = after.known
    provenance = file.header.provenance.model_copy(
        update={
            "images": len(known),
            "data": data_hash(zip(known.names, known.contents, strict=True)),
            "learned_from": known.contents,
            "expected_accuracy": after.expected,
            "held_out": after.scores,
            "texts": {name: said for name, said in file.header.provenance.texts.items() if name in known.classes},
            "versions": versions(),
            "parents": (file.digest,),
        }
    )
    changes = {"classes": known.classes, "unit_norm": after.head.unit_norm, "provenance": provenance}
    return file.header.model_copy(update=changes)


def _narrowest(file: DeltaFile, after: Fitted) -> HeadValues:
    exact = file.stored.values == "float32" and file.stored.head == "float32"
    return "float32" if exact else narrowest_head(after.head, after.known.features)


def _compared(result: EditResult, before: Fitted, after: Fitted, rows: Collection[int]) -> EditResult:
    """The result with the held-out accuracy on old images of old classes, as the classifier was and as it is."""
    right_before, right_after = before.right, after.right
    pairs = [(right_before.get(old), right_after.get(new)) for new, old in enumerate(rows)]
    both = [(old, new) for old, new in pairs if old is not None and new is not None]
    if not both:
        return result
    was, now = (wilson(sum(answers), len(both)) for answers in zip(*both, strict=True))
    old = OldClasses(len(both), *(Share(each.mean, each.low, each.high) for each in (was, now)))
    return replace(result, accuracy_before=was.mean, accuracy_after=now.mean, old=old)


def _prove(path: Path, file: DeltaFile, after: Fitted, values: HeadValues) -> None:
    """Raises CheckFailed unless the file has the same changes of the backbone and the new head, rounded harmlessly."""
    head, features = head_as_stored(after.head, values), after.known.features
    check_contents(path, file.delta, file.graft, head, "made")
    labels, exact = head.logits(features).argmax(1), after.head.logits(features).argmax(1)
    hint = "Nothing was written. Learn the classifier again with `fewshot adapt --keep-support --values float32`."
    check_labels(labels, exact, f"Kept as {values}, the head gives", hint)
