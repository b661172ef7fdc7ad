"""Whether a delta file holds a classifier to the bit: how it moves the backbone, and its head."""

from pathlib import Path

import torch

from fewshot_cli.engine.delta.change import Delta, is_same
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import CheckFailed
from fewshot_cli.formats.delta.file import DeltaFile, read_delta_file
from fewshot_cli.formats.delta.sections import KeptGraft, KeptHead


def check_contents(path: Path, delta: Delta, graft: KeptGraft | None, head: Head | KeptHead, made: str) -> None:
    """Raises CheckFailed unless the file has this delta, graft and head; `made` says how the classifier came to be."""
    if not has_contents(read_delta_file(path), delta, graft, head):
        raise CheckFailed(
            f"The file does not hold the classifier that was {made}.",
            "Nothing was written. This is a fault of fewshot: please report it.",
        )


def has_contents(file: DeltaFile, delta: Delta, graft: KeptGraft | None, head: Head | KeptHead) -> bool:
    """Whether the file has this delta, graft and head, every number of them."""
    return is_same(file.delta, delta) and _same_graft(file.graft, graft) and _same_head(file.head, head)


def _same_graft(one: KeptGraft | None, other: KeptGraft | None) -> bool:
    if one is None or other is None:
        return one is other
    same = one.facts == other.facts and one.params.keys() == other.params.keys()
    return same and all(torch.equal(one.params[name], other.params[name]) for name in one.params)


def _same_head(one: Head | KeptHead, other: Head | KeptHead) -> bool:
    if not isinstance(one, Head) or not isinstance(other, Head):
        return one == other
    same = torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)
    return same and one.unit_norm == other.unit_norm
