"""A classifier with one more class by its name alone, where classes are what a text tower makes of their names."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import DeltaFile, Expected, Header, HeadValues, head_as_stored
from fewshot_cli.formats.delta.head import HEAD_VALUES, MOST_DRIFT, head_bytes
from fewshot_cli.images.sources.class_folders import nfc
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit.checks import changing, check_new_name, check_takes_names
from fewshot_cli.jobs.edit.refit import edited, with_record, write_changed
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.proofs.contents import check_contents
from fewshot_cli.jobs.run_record import versions
from fewshot_cli.recipes import parse_recipe
from fewshot_cli.results import AddClassResult
from fewshot_cli.storage.atomic import staged

NEAR = 1e-4
"""How far a class vector that a file keeps may be from what its texts give, as 1 - cosine."""
EVEN = 1e-2
"""How far the lengths of class vectors may differ, as a share."""
BY_NAME = "a class came by its name alone, and no image of it was asked about; `fewshot eval` can tell"


def add_name(path: Path, name: str, output: Path, context: JobContext) -> AddClassResult:
    """Writes the classifier that has a class of this name, too; its other classes answer as before, to the bit.

    The text tower of the file's backbone, as the file moves it, reads the name in the recipe's templates. Raises
    FewshotError where the file's class vectors are not what its texts give, and for a class that it has already.
    """
    start = time.perf_counter()
    with changing(output):
        name = nfc(name.strip())
        check_takes_names(path, name)
        loaded = load_model(path, context.source, context.device)
        file, head = loaded.file, loaded.head
        check_new_name(path, name, file.header.classes)
        recipe = parse_recipe(file.header.recipe, f"in {path}")
        (said,) = class_texts((name,), recipe.template)
        assert isinstance(loaded.backbone, TwoTowers)  # as check_takes_names saw
        row = _row(loaded.backbone, file, head, said, path)
        names = sorted([*file.header.classes, name])
        grown = _grown(head, row, names.index(name))
        values = _kept_as(grown, names.index(name), file.stored.head)
        others = torch.tensor([names.index(each) for each in file.header.classes])
        support = file.support and replace(file.support, labels=others[file.support.labels])
        header = _header(file, names, {**file.header.provenance.texts, name: said})
        with staged(output) as draft:
            size = write_changed(draft, file, header, grown, values, support)
            check_contents(draft, file.delta, file.graft, head_as_stored(grown, values), "made")
        result = edited(path, file, output, header, size)
        facts = {"folder": None, "added": {name: 0}, "more": {}, "skipped": (), "texts": {name: said}}
        return with_record(result, AddClassResult, output, start, **facts)


@torch.no_grad()
def _row(towers: TwoTowers, file: DeltaFile, head: Head, said: Sequence[str], path: Path) -> Tensor:
    """The class vector `(dim,)` of the texts, as long as those of the file's classes.

    Raises FewshotError where these are not what the file's own texts give.
    """
    known = [file.header.provenance.texts.get(each, ()) for each in file.header.classes]
    weights = merge({name: towers.params[name] for name in file.delta}, file.delta)
    if all(known):
        made = towers.class_vectors([*known, said], weights).cpu()
        vectors, new = made[:-1], made[-1]
        weight, lengths = head.weight.cpu(), head.weight.cpu().norm(dim=1)
        length = lengths.mean()
        alike = (F.normalize(weight, dim=1) * vectors).sum(1)
        is_even = (lengths - length).abs().max() < EVEN * length and bool((head.bias == head.bias[0]).all())
        if is_even and float(alike.min()) > 1 - NEAR:
            row: Tensor = length * new
            return row
    raise FewshotError(
        f"A name alone adds no class to {path}: its class vectors are not what the texts that it names give.",
        "Make it again from names or images, with `fewshot adapt`.",
    )


def _grown(head: Head, row: Tensor, place: int) -> Head:
    """The head with one more class at this place, whose bias is that of all."""
    weight, bias = head.weight.cpu(), head.bias.cpu()
    return replace(
        head,
        weight=torch.cat([weight[:place], row[None].to(weight), weight[place:]]),
        bias=torch.cat([bias[:place], bias[:1], bias[place:]]),
    )


def _kept_as(head: Head, place: int, before: HeadValues) -> HeadValues:
    """How to keep the head in the fewest bytes, so that no old row changes and the new one hardly does."""
    old = torch.arange(len(head.weight)) != place
    for values in sorted({before, *HEAD_VALUES}, key=lambda values: head_bytes(head, values)):
        with suppress(FewshotError):  # more than float16 holds
            stored = head_as_stored(head, values).weight
            if stored[old].equal(head.weight[old]) and (stored[place] - head.weight[place]).norm() <= MOST_DRIFT:
                return values
    return "float32"


def _header(file: DeltaFile, names: Sequence[str], texts: dict[str, tuple[str, ...]]) -> Header:
    """Says what texts made the classes, and forgets what held-out images said of fewer classes."""
    provenance = file.header.provenance.model_copy(
        update={
            "expected_accuracy": Expected(mean=None, low=None, high=None, how=BY_NAME),
            "held_out": None,
            "versions": versions(),
            "parents": (file.digest,),
            "texts": texts,
        }
    )
    return file.header.model_copy(update={"classes": tuple(names), "provenance": provenance})
