"""A classifier with another name for one of its classes; every logit stays the same to the bit."""

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.formats.delta.file import DeltaFile, Header, HeldOutScores, read_delta_file
from fewshot_cli.images.sources.class_folders import UNKNOWN, class_name
from fewshot_cli.jobs.edit.checks import changing, check_known, check_new_name
from fewshot_cli.jobs.edit.refit import edited, with_record, write_changed
from fewshot_cli.jobs.proofs.contents import check_contents
from fewshot_cli.jobs.run_record import data_hash, versions
from fewshot_cli.results import RenameClassResult
from fewshot_cli.storage.atomic import staged


def rename_class(path: Path, old: str, new: str, output: Path) -> RenameClassResult:
    """Writes the classifier with the class called `new`; classes stay sorted by name.

    It needs neither images nor features. Where `unknown` is one of the names, no picture can be refused any more.
    Raises FewshotError where there is no class `old`, or already one called `new`.
    """
    start = time.perf_counter()
    with changing(output):
        file = read_delta_file(path)
        check_known(old, file.header.classes, path)
        new = class_name(new)
        check_new_name(path, new, file.header.classes)
        names = [new if name == old else name for name in file.header.classes]
        order = sorted(range(len(names)), key=names.__getitem__)
        scores = None if UNKNOWN in (old, new) else _scores(file.header.provenance.held_out, order)
        texts = _texts(file.header.provenance.texts, old, new)
        header = _header(file, [names[place] for place in order], scores, texts)
        head = _reordered(file.head, order) if isinstance(file.head, Head) else file.head
        support = file.support and replace(file.support, labels=_places(order)[file.support.labels])
        with staged(output) as draft:
            size = write_changed(draft, file, header, head, file.stored.head, support)
            check_contents(draft, file.delta, file.graft, head, "renamed")
        accuracy = file.header.provenance.expected_accuracy.mean
        result = replace(edited(path, file, output, header, size), accuracy_before=accuracy, accuracy_after=accuracy)
        return with_record(result, RenameClassResult, output, start, renamed={old: new})


def _scores(held_out: HeldOutScores | None, order: list[int]) -> HeldOutScores | None:
    """The scores with classes in another order."""
    if held_out is None:
        return None
    return held_out.model_copy(update={"nonconformity": tuple(held_out.nonconformity[place] for place in order)})


def _texts(known: dict[str, tuple[str, ...]], old: str, new: str) -> dict[str, tuple[str, ...]]:
    """What a text tower read of each class: the same of the one that is renamed, as that made its vector."""
    return {new if name == old else name: texts for name, texts in known.items()}


def _header(
    file: DeltaFile, names: list[str], scores: HeldOutScores | None, texts: dict[str, tuple[str, ...]]
) -> Header:
    data = data_hash(zip(names, [file.header.provenance.data] * len(names), strict=True))
    provenance = file.header.provenance.model_copy(
        update={
            "data": data,
            "versions": versions(),
            "parents": (file.digest,),
            "held_out": scores,
            "texts": texts,
        }
    )
    return file.header.model_copy(update={"classes": tuple(names), "provenance": provenance})


def _reordered(head: Head, order: list[int]) -> Head:
    return replace(head, weight=head.weight[order], bias=head.bias[order])


def _places(order: list[int]) -> Tensor:
    """The new place of each old class."""
    return torch.tensor(order).argsort()
