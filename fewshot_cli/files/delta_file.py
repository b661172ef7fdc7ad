"""The delta file: a classifier as what was added to a frozen backbone, and a head. docs/delta-format.md specifies it.

It is a safetensors file. Every changed parameter has the form that takes the fewest bytes: dense, sparse, drawn (sparse
at positions that follow from a seed) or low rank. `values` has the numbers of all dense, sparse and drawn changes one
after the other, `factors` those of low rank, `positions/I` sets of positions, `scales` what rounded numbers are
multiples of, and `head.weight`, `head.scales` and `head.bias` the head. The header is JSON in the metadata.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from torch import Tensor

from fewshot_cli.engine.deltas import Change, Delta, Dense, LowRank, Sparse, all_values
from fewshot_cli.engine.draws import Draws
from fewshot_cli.engine.heads import Head
from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.errors import FewshotError
from fewshot_cli.files import delta_v1
from fewshot_cli.files.codec import BadCode, code_of, positions_in
from fewshot_cli.files.rounding import BITS, DTYPES, Values, count_in, has_scale, packed, rounded, scale_of, unpacked
from fewshot_cli.files.signed import Kind, Malformed, read_signed, signed_bytes

KIND = Kind("fewshot-delta", 2, "delta file", "fewshot adapt FOLDER -o FILE")
MOST_WEIGHTS = 2**32
"""Of a base. What a file makes a reader take memory for is bounded by its own size, and a byte for 64 of these."""

HeadValues: TypeAlias = Literal["float32", "float16", "int8"]
HEAD_VALUES: tuple[HeadValues, ...] = ("int8", "float16", "float32")
"""The narrowest first."""

Length: TypeAlias = Annotated[int, Field(gt=0, le=MOST_WEIGHTS)]
Shape: TypeAlias = Annotated[tuple[Length, ...], Field(max_length=8)]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BaseFacts(BaseModel):
    """The frozen model that the delta belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    """timm's name."""
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the weights; see engine.backbones.fingerprint."""
    size: int = Field(gt=0)
    """The number of its values."""
    licence: str
    preprocessing: Preprocessing

    @field_validator("preprocessing")
    @classmethod
    def _possible(cls, given: Preprocessing) -> Preprocessing:
        if not all(1 <= side <= 4096 for side in given.size) or not 0 < given.crop_fraction <= 1:
            raise ValueError("no picture has this size or crop")
        if not all(math.isfinite(value) for value in given.mean) or not all(
            0 < value < math.inf for value in given.std
        ):
            raise ValueError("no picture has this mean or std")
        return given


class Expected(BaseModel):
    """An accuracy to expect, with its 95 % interval, and how it was found; None where it can't be known."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean: float | None
    low: float | None
    high: float | None
    how: str


class Provenance(BaseModel):
    """Where the classifier comes from: what a reader may want to know, and none needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    images: int
    """How many it was learned from."""
    data: str
    """SHA-256 of their labels and contents."""
    learned_from: tuple[str, ...]
    """The beginning of each one's SHA-256."""
    expected_accuracy: Expected
    versions: dict[str, str]
    bank: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """The digest of the bank that it was adapted from."""
    parents: tuple[Digest, ...] = ()
    """The digests of the delta files that it was composed from."""


class Header(BaseModel):
    """Everything in a delta file that is not a tensor, and says nothing about how these are kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: BaseFacts
    classes: tuple[str, ...] = Field(min_length=2)
    unit_norm: bool
    """Whether the head takes features of unit norm."""
    shapes: dict[str, Shape]
    """The changed parameters and their shapes."""
    touched: dict[str, Digest] = Field(default={}, exclude=True)
    """engine.backbones.fingerprint of changed parameters of the base, by name, as far as they are known: what version 1
    wrote has none. A tensor of the file."""
    recipe: dict[str, Any]
    """As it was at the time: other versions of fewshot may have other settings."""
    provenance: Provenance

    @property
    def method(self) -> str | None:
        """The name of the recipe's method."""
        section = self.recipe.get("method")
        name = section.get("name") if isinstance(section, dict) else None
        return name if isinstance(name, str) else None

    @model_validator(mode="after")
    def _possible(self) -> "Header":
        changed = sum(math.prod(shape) for shape in self.shapes.values())
        if not changed <= self.base.size <= MOST_WEIGHTS:
            raise ValueError(f"{changed} values can't be changed in a base of {self.base.size}")
        if not self.touched.keys() <= self.shapes.keys():
            raise ValueError("it has the hash of a parameter that it doesn't change")
        return self


IsSparse: TypeAlias = Annotated[int, Field(ge=0)]
"""The number of the set that has its positions."""
IsDrawn: TypeAlias = tuple[Literal["drawn"], Annotated[int, Field(ge=0, lt=2**64)], Annotated[int, Field(ge=0)]]
"""With the seed, and how many positions."""
IsLowRank: TypeAlias = tuple[Literal["low rank"], Annotated[int, Field(ge=0, le=MOST_WEIGHTS)]]
"""With the rank."""
Form: TypeAlias = Literal["dense"] | IsSparse | IsDrawn | IsLowRank


class StoredHeader(Header):
    """The header as it lies in the file."""

    values: Values
    """How the numbers of changes are kept."""
    forms: tuple[Form, ...]
    """Of the changed parameters, in the order of their shapes."""

    def plain(self, touched: Mapping[str, str]) -> Header:
        """What is no matter of how it is kept, with the hashes of the base's parameters."""
        known = {name: getattr(self, name) for name in Header.model_fields}
        return Header.model_construct(**(known | {"touched": dict(touched)}))


@dataclass(frozen=True)
class Stored:
    """How a file keeps its numbers: the kind of the changes', the head's, and the form of each change by name."""

    version: int
    values: Values
    head: HeadValues
    forms: Mapping[str, str]


@dataclass(frozen=True)
class DeltaFile:
    """A classifier as it lies on disk. `digest` is the SHA-256 of its content."""

    header: Header
    delta: Delta
    head: Head
    digest: str
    stored: Stored


def write_delta_file(
    path: Path,
    header: Header,
    delta: Delta,
    head: Head,
    values: Values = "float32",
    head_values: HeadValues = "float32",
) -> int:
    """Writes the file, each change in whichever form is smallest, and gives its size in bytes.

    What is read back is what `as_stored` and `head_as_stored` give; with float32, the same numbers. Raises FewshotError
    for a change that `values` can't hold. Not atomic: write into a `staged` file, so that it can be proved before it
    takes its place.
    """
    content = signed_bytes(KIND, *_coded(header, delta, head, values, head_values))
    path.write_bytes(content)
    return len(content)


def as_stored(delta: Delta, values: Values, seed: int) -> dict[str, Change]:
    """The delta as it is read back from a file that keeps its numbers as `values`, and whose provenance has `seed`."""
    return {name: _smallest(name, change, values, seed)[1] for name, change in delta.items()}


def head_as_stored(head: Head, values: HeadValues) -> Head:
    """The head as it is read back from a file that keeps its weights as `values`."""
    return Head(torch.stack([rounded(row, values) for row in head.weight]), head.bias, head.unit_norm)


def delta_bytes(delta: Delta, values: Values = "float16") -> int:
    """About how many bytes the file takes for the delta, its positions by the bound that codes come near to."""
    return sum(-(-_fewest_bits(change, values) // 8) for change in delta.values())


def head_bytes(head: Head, values: HeadValues = "int8") -> int:
    """How many bytes the tensors of the head take in the file."""
    scales = 2 * len(head.bias) if has_scale(values) else 0
    return head.weight.numel() * BITS[values] // 8 + scales + 4 * head.bias.numel()


def read_delta_file(path: Path) -> DeltaFile:
    """The classifier in `path`.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of a newer version, or not a
    delta file at all. No content of a file makes it do anything else. Besides what files.signed says it takes memory
    for what it gives, at most 200 bytes for each number in the file, and a byte for every 64 weights of the base.
    """
    header, tensors, digest = read_signed(path, KIND, StoredHeader, {1: Header})
    try:
        if isinstance(header, StoredHeader):
            delta, forms = _changes(header, tensors)
            head, head_values = _head(header, tensors, HEAD_VALUES)
            stored, plain = Stored(2, header.values, head_values, forms), header.plain(_touched(header, tensors))
        else:
            delta, forms = delta_v1.changes_in(header.shapes, tensors)
            head, head_values = _head(header, tensors, ("float32",))
            stored, plain = Stored(1, "float32", head_values, forms), header
    except Malformed as error:
        raise KIND.damaged(path, str(error)) from None
    except MemoryError:
        raise FewshotError(f"{path} can't be read: it needs more memory.", "Use a machine with more.") from None
    if tensors:
        raise KIND.damaged(path, f"it holds a tensor that belongs to nothing: {min(tensors)}")
    return DeltaFile(plain, delta, head, digest, stored)


def values_of(file: DeltaFile, name: str) -> Values:
    """How the file keeps the numbers of one change."""
    return _of_factors(file.stored.values) if file.stored.forms[name] == "low rank" else file.stored.values


# --- which form ------------------------------------------------------------------------------------------------------

BITS_OF_A_DRAW = 8 * 16
"""What the header takes to name a seed and a count."""
UNKNOWN = "0" * 64
"""In the place of a hash that isn't known."""
BYTES_OF_A_SET = 80
"""What the file takes to name one more set of positions."""

Choice: TypeAlias = tuple[Literal["dense", "sparse"] | IsDrawn | IsLowRank, Change]
"""A form, and the change as it is read back."""


def _smallest(name: str, change: Change, values: Values, seed: int) -> Choice:
    """The change in the form that takes the fewest bits."""
    return min(_choices(name, change, values, seed), key=lambda choice: _bits(choice, values))


def _choices(name: str, change: Change, values: Values, seed: int) -> Iterator[Choice]:
    size = math.prod(change.shape)
    if isinstance(change, LowRank):
        kind = _of_factors(values)
        change = LowRank(change.shape, rounded(change.left, kind), rounded(change.right, kind))
        yield ("low rank", change.left.shape[1]), change
    if isinstance(change, Sparse):
        positions, numbers = change.positions, change.values
        whole = values != "1bit" or bool(numbers.all())  # a bit can't say that nothing is added
        if whole and 0 <= seed < 2**64 and torch.equal(positions.cpu(), _drawn(seed, name, size, len(positions))):
            yield ("drawn", seed, len(positions)), Sparse(change.shape, positions, rounded(numbers, values))
    else:
        flat = all_values(change).reshape(-1)
        positions = flat.nonzero().squeeze(1)
        numbers = flat[positions]
    if isinstance(change, LowRank) and not _can_hold(numbers, values):
        return  # the factors are smaller than their product
    numbers = rounded(numbers[(is_some := numbers != 0)], values)
    positions, numbers = positions[is_some][numbers != 0], numbers[numbers != 0]
    if values != "1bit" or len(positions) == size:
        yield "dense", Dense(numbers.new_zeros(size).index_copy(0, positions, numbers).reshape(change.shape))
    yield "sparse", Sparse(change.shape, positions, numbers)


def _can_hold(numbers: Tensor, values: Values) -> bool:
    return bool(torch.isfinite(numbers.to(DTYPES[values]) if not has_scale(values) else numbers).all())


def _bits(choice: Choice, values: Values) -> float:
    """What the numbers and the positions take."""
    form, change = choice
    match change:
        case LowRank():
            return BITS[_of_factors(values)] * (change.left.numel() + change.right.numel())
        case Dense():
            return BITS[values] * change.values.numel()
        case Sparse():
            count = len(change.positions)
            where = _bits_of_set(change.shape, count) if form == "sparse" else BITS_OF_A_DRAW
            return BITS[values] * count + where


def _fewest_bits(change: Change, values: Values) -> int:
    """Bits of the change in its smallest form, which is not made."""
    not_zero = change.nonzeros()
    size = math.prod(change.shape)
    forms = [BITS[values] * not_zero + _bits_of_set(change.shape, not_zero)]
    if values != "1bit" or not_zero == size:
        forms.append(BITS[values] * size)
    if isinstance(change, LowRank):
        forms.append(BITS[_of_factors(values)] * (change.left.numel() + change.right.numel()))
    return math.ceil(min(forms))


def _bits_of_set(shape: tuple[int, ...], count: int) -> float:
    """log2 C(size, count): what a code of so many positions comes near to."""
    size = math.prod(shape)
    return max(0.0, math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)) / math.log(2)


def _of_factors(values: Values) -> Values:
    """How factors are kept: with one bit each, their product would have nothing to do with the change."""
    return "int8" if values == "1bit" else values


def _drawn(seed: int, name: str, size: int, count: int) -> Tensor:
    """The positions `(count,)`, rising, that the seed gives a parameter of so many values."""
    return torch.from_numpy(Draws(seed, name, 0).subset(size, count))


# --- writing ---------------------------------------------------------------------------------------------------------


def _coded(
    header: Header, delta: Delta, head: Head, values: Values, head_values: HeadValues
) -> tuple[StoredHeader, dict[str, Tensor]]:
    """The header and the tensors of the file."""
    chosen = {name: _smallest(name, change, values, header.provenance.seed) for name, change in delta.items()}
    codes, set_of = _codes({n: c for n, (form, c) in chosen.items() if form == "sparse" and isinstance(c, Sparse)})
    forms = [set_of.get(name, form) for name, (form, _) in chosen.items()]
    stored = StoredHeader.model_validate(dict(header) | {"values": values, "forms": forms})
    changes = [change for _, change in chosen.values()]
    tensors = _numbers(changes, values) | {f"positions/{i}": code for i, code in enumerate(codes)}
    if header.touched:
        hashes = b"".join(bytes.fromhex(header.touched.get(name, UNKNOWN)) for name in header.shapes)
        tensors["touched"] = torch.frombuffer(bytearray(hashes), dtype=torch.uint8).reshape(-1, len(UNKNOWN) // 2)
    return stored, tensors | _coded_head(head, head_values)


def _numbers(changes: Sequence[Change], values: Values) -> dict[str, Tensor]:
    kind = _of_factors(values)
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


def _codes(changes: Mapping[str, Sparse]) -> tuple[list[Tensor], dict[str, int]]:
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


def _coded_head(head: Head, values: HeadValues) -> dict[str, Tensor]:
    rows = list(head.weight.detach().cpu())
    scales = [scale_of(row, values) for row in rows]
    weight = packed([rounded(row, values) for row in rows], scales, values).reshape(head.weight.shape)
    tensors = {"head.weight": weight, "head.bias": head.bias}
    return tensors | ({"head.scales": torch.stack(scales).to(torch.bfloat16)} if has_scale(values) else {})


# --- reading ---------------------------------------------------------------------------------------------------------


def _changes(header: StoredHeader, tensors: dict[str, Tensor]) -> tuple[dict[str, Change], dict[str, str]]:
    """Takes the changes out of `tensors`, and their forms.

    Nothing is decoded before it is known to be no more than there are numbers.
    """
    if len(header.forms) != len(header.shapes):
        raise Malformed(f"{len(header.shapes)} parameters have {len(header.forms)} forms")
    forms = dict(zip(header.shapes, header.forms, strict=True))
    ranks = {name: form[1] for name, form in forms.items() if isinstance(form, tuple) and form[0] == "low rank"}
    others = {name: form for name, form in forms.items() if name not in ranks}
    values, factors = _of_file(tensors, "values", bool(others)), _of_file(tensors, "factors", bool(ranks))
    positions = _positions(header, others, count_in(values, header.values), tensors)
    sizes = {name: math.prod(header.shapes[name]) for name in forms}
    counts = [len(positions[name]) if name in positions else sizes[name] for name in others]
    rows = {name: header.shapes[name][0] if header.shapes[name] else 1 for name in ranks}
    of_factors = [rank * side for name, rank in ranks.items() for side in (rows[name], sizes[name] // rows[name])]
    scales = torch.empty(0)
    if has_scale(header.values) and forms:
        scales = _of_file(tensors, "scales", True)
        if scales.dtype != torch.bfloat16 or tuple(scales.shape) != (len(counts) + len(of_factors),):
            raise Malformed("its scales are not one bfloat16 for each change")
    numbers = unpacked(values, counts, scales[: len(counts)].float(), header.values) if others else []
    kind = _of_factors(header.values)
    sides = iter(unpacked(factors, of_factors, scales[len(counts) :].float(), kind) if ranks else [])
    delta: dict[str, Change] = {}
    for name, part in zip(others, numbers, strict=True):
        shape = header.shapes[name]
        delta[name] = Sparse(shape, positions[name], part) if name in positions else Dense(part.reshape(shape))
    for name, rank in ranks.items():
        left, right = next(sides).reshape(rows[name], rank), next(sides).reshape(rank, sizes[name] // rows[name])
        delta[name] = delta_v1.low_rank(name, header.shapes[name], left, right)
    return {name: delta[name] for name in header.shapes}, {name: _name_of(form) for name, form in forms.items()}


def _name_of(form: Form) -> str:
    return "sparse" if isinstance(form, int) else form if isinstance(form, str) else form[0]


def _touched(header: StoredHeader, tensors: dict[str, Tensor]) -> dict[str, str]:
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
            found[name] = _drawn(seed, name, size, count)
            left -= count
    for i, names in sets.items():
        of_set = _set_in(tensors, f"positions/{i}", [header.shapes[name] for name in names], left)
        found |= dict(zip(names, of_set, strict=True))
        left -= sum(map(len, of_set))
    return found


def _set_in(tensors: dict[str, Tensor], name: str, shapes: Sequence[tuple[int, ...]], most: int) -> list[Tensor]:
    """The positions in each parameter of those whose set it is."""
    code = _of_file(tensors, name, True)
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


def _of_file(tensors: dict[str, Tensor], name: str, is_needed: bool) -> Tensor:
    """Takes a tensor out of `tensors`."""
    if not is_needed:
        return torch.empty(0)
    if name not in tensors:
        raise Malformed(f"{name} is missing")
    return tensors.pop(name)


def _head(header: Header, tensors: dict[str, Tensor], kinds: Sequence[HeadValues]) -> tuple[Head, HeadValues]:
    """Takes the head out of `tensors`, which keep it as one of `kinds`."""
    way = len(header.classes)
    if len(set(header.classes)) < way:
        raise Malformed("two classes have the same name")
    weight = _of_file(tensors, "head.weight", True)
    kind = next((kind for kind in kinds if DTYPES[kind] == weight.dtype), None)
    if kind is None or weight.ndim != 2 or len(weight) != way:
        raise Malformed(f"head.weight is not {' or '.join(kinds)} of {way} rows")
    scales = _of_file(tensors, "head.scales", has_scale(kind))
    if has_scale(kind) and (scales.dtype != torch.bfloat16 or tuple(scales.shape) != (way,)):
        raise Malformed("head.scales are not one bfloat16 for each class")
    try:
        rows = unpacked(weight.reshape(-1), [weight.shape[1]] * way, scales.float(), kind)
    except Malformed as error:
        raise Malformed(f"head.weight: {error}") from None
    return Head(torch.stack(rows), delta_v1.taken(tensors, "head.bias", (way,)), header.unit_norm), kind
