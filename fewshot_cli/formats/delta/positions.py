"""Positions in a delta file: sets, each of the positions in some parameters that lie one after the other."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Sparse
from fewshot_cli.formats.coding.position_codec import BadCode, code_of, positions_in
from fewshot_cli.formats.container import Malformed, taken

BYTES_OF_A_SET = 80
"""What the file takes to name one more set of positions."""


def set_codes(changes: Mapping[str, Sparse]) -> tuple[list[Tensor], dict[str, int]]:
    """Sets of positions, each of some parameters one after the other, and the number of each parameter's set.

    One set for all, or one for those of like density, whichever takes fewer bytes.
    """
    if not changes:
        return [], {}
    alike: dict[int, list[str]] = {}
    for name, change in changes.items():
        alike.setdefault(_density_class(change), []).append(name)
    partitions = [[list(changes)], list(alike.values())][: len(alike)]
    coded = [([_code([changes[name] for name in names]) for names in partition], partition) for partition in partitions]
    codes, partition = min(coded, key=lambda found: sum(len(code) + BYTES_OF_A_SET for code in found[0]))
    return codes, {name: i for i, names in enumerate(partition) for name in names}


def _density_class(change: Sparse) -> int:
    """The same for parameters whose densities differ by less than four times."""
    return round(math.log2(math.prod(change.shape) / max(1, len(change.positions)))) // 2


def _code(changes: Sequence[Sparse]) -> Tensor:
    starts = _starts([change.shape for change in changes])
    places = [change.positions.cpu().numpy() + start for change, start in zip(changes, starts, strict=False)]
    return torch.frombuffer(bytearray(code_of(np.concatenate(places), starts[-1])), dtype=torch.uint8)


def _starts(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """Where each parameter begins when they lie one after the other, and where the last ends."""
    return list(accumulate(map(math.prod, shapes), initial=0))


def set_in(tensors: dict[str, Tensor], name: str, shapes: Sequence[tuple[int, ...]], most: int) -> list[Tensor]:
    """The positions in each parameter of those whose set it is."""
    code = taken(tensors, name)
    if code.dtype != torch.uint8 or code.ndim != 1:
        raise Malformed(f"{name} is not bytes")
    starts = _starts(shapes)
    try:
        places = positions_in(code.numpy().data, starts[-1], max(0, most))
    except BadCode as error:
        raise Malformed(f"{name} is no set of positions: {error}") from None
    cuts = np.searchsorted(places, starts).tolist()
    parts = [places[first:last] for first, last in pairwise(cuts)]
    for part, start in zip(parts, starts, strict=False):
        part -= start
    return [torch.from_numpy(part) for part in parts]
