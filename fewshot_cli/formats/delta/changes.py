"""The changes of a delta file as its tensors, and back.

`values` has the numbers of all dense, sparse and drawn changes one after the other, `factors` those of low rank,
`positions/I` sets of positions, `scales` what rounded numbers are multiples of, and `touched` hashes of the base.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Change, Delta, Dense, LowRank, Sparse
from fewshot_cli.formats.container import Malformed, taken
from fewshot_cli.formats.delta.encoding import drawn_positions, kind_of_factors, smallest_form
from fewshot_cli.formats.delta.finite import low_rank
from fewshot_cli.formats.delta.header import Form, Header, StoredHeader
from fewshot_cli.formats.delta.positions import set_codes, set_in
from fewshot_cli.formats.delta.rounding import Values, count_in, has_scale, packed, scale_of, unpacked

UNKNOWN = "0" * 64
"""In the place of a hash that isn't known."""


# --- writing ---------------------------------------------------------------------------------------------------------


def coded_changes(header: Header, delta: Delta, values: Values) -> tuple[StoredHeader, dict[str, Tensor]]:
    """The header, and the tensors of the changes."""
    chosen = {name: smallest_form(name, change, values, header.provenance.seed) for name, change in delta.items()}
    codes, set_of = set_codes({n: c for n, (form, c) in chosen.items() if form == "sparse" and isinstance(c, Sparse)})
    forms = [set_of.get(name, form) for name, (form, _) in chosen.items()]
    stored = StoredHeader.model_validate(dict(header) | {"values": values, "forms": forms})
    changes = [change for _, change in chosen.values()]
    tensors = _numbers(changes, values) | {f"positions/{i}": code for i, code in enumerate(codes)}
    if header.touched:
        hashes = b"".join(bytes.fromhex(header.touched.get(name, UNKNOWN)) for name in header.shapes)
        tensors["touched"] = torch.frombuffer(bytearray(hashes), dtype=torch.uint8).reshape(-1, len(UNKNOWN) // 2)
    return stored, tensors


def _numbers(changes: Sequence[Change], values: Values) -> dict[str, Tensor]:
    kind = kind_of_factors(values)
    factors = [part for change in changes if isinstance(change, LowRank) for part in (change.left, change.right)]
    others = [change.values for change in changes if not isinstance(change, LowRank)]
    scales = [scale_of(part, values) for part in others] + [scale_of(part, kind) for part in factors]
    tensors = {}
    if others:
        tensors["values"] = packed(others, scales[: len(others)], values)
    if factors:
        tensors["factors"] = packed(factors, scales[len(others) :], kind)
    if scales and has_scale(values):
        tensors["scales"] = torch.stack(scales).to(torch.bfloat16)
    return tensors


# --- reading ---------------------------------------------------------------------------------------------------------


def changes_in(header: StoredHeader, tensors: dict[str, Tensor]) -> tuple[dict[str, Change], dict[str, str]]:
    """Takes the changes out of `tensors`, and their forms.

    Nothing is decoded before it is known to be no more than there are numbers.
    """
    if len(header.forms) != len(header.shapes):
        raise Malformed(f"{len(header.shapes)} parameters have {len(header.forms)} forms")
    forms = dict(zip(header.shapes, header.forms, strict=True))
    ranks = {name: form[1] for name, form in forms.items() if isinstance(form, tuple) and form[0] == "low rank"}
    others = {name: form for name, form in forms.items() if name not in ranks}
    values = taken(tensors, "values") if others else torch.empty(0)
    factors = taken(tensors, "factors") if ranks else torch.empty(0)
    positions = _positions(header, others, count_in(values, header.values), tensors)
    sizes = {name: math.prod(header.shapes[name]) for name in forms}
    counts = [len(positions[name]) if name in positions else sizes[name] for name in others]
    rows = {name: header.shapes[name][0] if header.shapes[name] else 1 for name in ranks}
    of_factors = [rank * side for name, rank in ranks.items() for side in (rows[name], sizes[name] // rows[name])]
    scales = torch.empty(0)
    if has_scale(header.values) and forms:
        scales = taken(tensors, "scales")
        if scales.dtype != torch.bfloat16 or tuple(scales.shape) != (len(counts) + len(of_factors),):
            raise Malformed("its scales are not one bfloat16 for each change")
    numbers = unpacked(values, counts, scales[: len(counts)].float(), header.values) if others else []
    kind = kind_of_factors(header.values)
    sides = iter(unpacked(factors, of_factors, scales[len(counts) :].float(), kind) if ranks else [])
    delta: dict[str, Change] = {}
    for name, part in zip(others, numbers, strict=True):
        shape = header.shapes[name]
        delta[name] = Sparse(shape, positions[name], part) if name in positions else Dense(part.reshape(shape))
    for name, rank in ranks.items():
        left, right = next(sides).reshape(rows[name], rank), next(sides).reshape(rank, sizes[name] // rows[name])
        delta[name] = low_rank(name, header.shapes[name], left, right)
    return {name: delta[name] for name in header.shapes}, {name: _name_of(form) for name, form in forms.items()}


def _name_of(form: Form) -> str:
    return "sparse" if isinstance(form, int) else form if isinstance(form, str) else form[0]


def touched_in(header: StoredHeader, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Takes the hashes of the base's parameters out of `tensors`, where there are any."""
    if header.touched:
        raise Malformed("its header has hashes that should be a tensor")
    if "touched" not in tensors:
        return {}
    hashes = tensors.pop("touched")
    if hashes.dtype != torch.uint8 or tuple(hashes.shape) != (len(header.shapes), len(UNKNOWN) // 2):
        raise Malformed("the hashes of the base are not one for each parameter")
    found = {name: row.tobytes().hex() for name, row in zip(header.shapes, hashes.numpy(), strict=True)}
    return {name: digest for name, digest in found.items() if digest != UNKNOWN}


def _positions(
    header: StoredHeader, forms: Mapping[str, Form], most: int, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The positions of every change that has some; at most `most`, dense changes' values included, are taken."""
    left = most - sum(math.prod(header.shapes[name]) for name, form in forms.items() if form == "dense")
    found: dict[str, Tensor] = {}
    sets: dict[int, list[str]] = {}
    for name, form in forms.items():
        if isinstance(form, int):
            sets.setdefault(form, []).append(name)
        elif isinstance(form, tuple) and form[0] == "drawn":
            seed, count, size = form[1], form[2], math.prod(header.shapes[name])
            if count > min(left, size):
                raise Malformed(f"{name} has {count} of its {size} values changed, but there are only {left}")
            found[name] = drawn_positions(seed, name, size, count)
            left -= count
    for i, names in sets.items():
        of_set = set_in(tensors, f"positions/{i}", [header.shapes[name] for name in names], left)
        found |= dict(zip(names, of_set, strict=True))
        left -= sum(map(len, of_set))
    return found
