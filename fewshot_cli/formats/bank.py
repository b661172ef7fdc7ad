"""The bank: what meta-tuning learned, to adapt from. docs/bank-format.md specifies it.

It is a safetensors file. Tensors: `delta/values`, with `delta/positions` where a dense bank is mostly zeros; for every
expert M `gates/M/open`, `gates/M/between` and `gates/M/values`; and what else was learned as `tensors/NAME`. Sets of
positions are coded as in files.codec. The header is JSON in its metadata.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.coding.position_codec import BadCode, code_of, positions_in
from fewshot_cli.formats.container import Malformed, read_signed, write_signed
from fewshot_cli.formats.delta.file import BaseFacts
from fewshot_cli.formats.kinds import BANK as KIND

MOST_VALUES = 2**32
"""Delta and gates together: what a file of a few bytes can make a reader take memory for. ViT-L with 8 has 2.7e9."""

Values: TypeAlias = Literal["float32", "float16"]

_DTYPES: dict[Values, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
_STORED_AS_THEY_ARE = (torch.float32, torch.float64, torch.int64)


class BankProvenance(BaseModel):
    """Where the bank comes from: what a reader may want to know, and none needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int
    episodes: int = Field(ge=0)
    """How many were seen."""
    data: dict[str, str]
    """Each data set's SHA-256."""
    validation: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    """The mean accuracy on each validation set, in [0, 1]."""
    versions: dict[str, str]
    parent: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """The digest of the bank that meta-tuning began from."""


class BankHeader(BaseModel):
    """Everything in a bank that is not a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: BaseFacts
    kind: Literal["experts", "dense"]
    """Whether the delta is added as its experts are mixed, or as it is."""
    shapes: dict[str, tuple[Annotated[int, Field(gt=0)], ...]]
    """The parameters the delta is for, in the order in which it holds them, and their shapes."""
    experts: int = Field(ge=0, le=1024)
    """How many; 0 in a dense bank."""
    recipe: dict[str, Any]
    """As it was at the time: other versions of fewshot may have other settings."""
    router: dict[str, Any]
    """The settings that the router needs."""
    provenance: BankProvenance

    @property
    def method(self) -> str | None:
        """The name of the recipe's method."""
        section = self.recipe.get("method")
        name = section.get("name") if isinstance(section, dict) else None
        return name if isinstance(name, str) else None

    @property
    def size(self) -> int:
        """The number of values of the delta."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @model_validator(mode="after")
    def _possible(self) -> "BankHeader":
        if (self.kind == "experts") != (self.experts > 0):
            raise ValueError(f"a bank of kind {self.kind} with {self.experts} experts can't be")
        if not 0 < self.size <= self.base.size:
            raise ValueError(f"{self.size} values can't be changed in a base of {self.base.size}")
        if self.size * (1 + self.experts) > MOST_VALUES:
            raise ValueError(f"{self.experts} experts of {self.size} values are more than a bank can hold")
        return self


@dataclass(frozen=True)
class Bank:
    """What meta-tuning learned."""

    header: BankHeader
    delta: Tensor
    """`(size,)` float32: all parameters, one after the other, row by row. It is 0 where every gate is."""
    gates: Tensor | None
    """`(experts, size)` float32 in [0, 1]; None in a dense bank."""
    tensors: dict[str, Tensor]
    """The router and anything else that is small."""
    digest: str
    """SHA-256 of the content."""


def write_bank(
    path: Path,
    header: BankHeader,
    delta: Tensor,
    gates: Tensor | None,
    tensors: Mapping[str, Tensor],
    values: Values = "float32",
) -> int:
    """Writes the file, delta and gates as `values` wherever a gate is open, and gives its size in bytes.

    As float16 they are rounded, by at most 0.05 %, and all else is read back as it was; where every gate is 0, the
    delta is read back as 0, which makes no difference to any mixture. Not atomic: write into a `staged` file. Raises
    FewshotError where meta-tuning went wrong, or float16 can't hold the delta; ValueError for tensors that don't fit
    the header.
    """
    stored = dict(_coded(header, delta, gates, tensors, _DTYPES[values]))
    return write_signed(path, KIND, header, stored)


def read_bank(path: Path) -> Bank:
    """The bank in `path`.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of a newer version, or not a
    bank at all. No content of a file makes it do anything else. It takes memory for the file, for `delta` and `gates`,
    whose sizes the header states, and for coding one expert at a time, as files.codec says.
    """
    header, tensors, digest = read_signed(path, KIND, BankHeader)
    try:
        if header.kind == "dense":
            gates, delta = None, _dense_delta(tensors, header.size)
        else:
            gates, is_open = _gates(tensors, header.experts, header.size)
            delta = _zeros(header.size)
            delta[is_open] = _finite(tensors, "delta/values", int(is_open.count_nonzero()))
        others = _others(tensors)
    except Malformed as error:
        raise KIND.damaged(path, str(error)) from None
    except MemoryError:
        needed = 4 * header.size * (1 + header.experts) / 1e9
        raise FewshotError(
            f"{path} can't be read: it needs {needed:.1f} GB of memory.", "Use a machine with more memory."
        ) from None
    return Bank(header, delta, gates, others, digest)


def read_bank_header(path: Path) -> tuple[BankHeader, str]:
    """The header and the digest of the bank in `path`, whose tensors stay coded. Errors are those of `read_bank`."""
    header, _, digest = read_signed(path, KIND, BankHeader)
    return header, digest


# --- writing ---------------------------------------------------------------------------------------------------------


def _coded(
    header: BankHeader, delta: Tensor, gates: Tensor | None, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file by name."""
    expected = (header.experts, header.size) if header.kind == "experts" else None
    found = None if gates is None else tuple(gates.shape)
    if expected != found or tuple(delta.shape) != (header.size,):
        raise ValueError(f"gates {found} and delta {tuple(delta.shape)} don't fit a bank of {expected}, {header.size}")
    _check_finite("the delta", delta)
    delta = delta.detach().cpu()
    if gates is None:
        yield from _coded_dense(_rounded(delta, dtype))
    else:
        is_open = torch.zeros(header.size, dtype=torch.bool)
        for m, row in enumerate(gates):
            of_expert = _half(row.detach().cpu()) if dtype == torch.float16 else row.detach().cpu()
            is_open |= of_expert > 0
            yield from _coded_gates(m, of_expert)
        yield "delta/values", _rounded(delta[is_open], dtype)
    for name, values in tensors.items():
        yield f"tensors/{name}", _as_it_is(name, values)


def _half(gates: Tensor) -> Tensor:
    """Gates rounded to what float16 holds: one next to 0 or 1 is closed, or quite open."""
    return gates.half().float() if gates.dtype == torch.float32 else gates


def _coded_gates(m: int, gates: Tensor) -> Iterator[tuple[str, Tensor]]:
    if gates.dtype != torch.float32:
        raise ValueError(f"gates are {gates.dtype}")
    if not bool(((gates >= 0) & (gates <= 1)).all()):  # NaN is neither
        raise FewshotError(f"Expert {m} has a gate outside [0, 1].", "Meta-tuning diverged; try a lower learning rate.")
    positions = gates.nonzero().squeeze(1)
    opened = gates[positions]
    between = (opened < 1).nonzero().squeeze(1)
    values = opened[between]
    half = values.half()
    yield f"gates/{m}/open", _code(positions, len(gates))
    yield f"gates/{m}/between", _code(between, len(opened))
    yield f"gates/{m}/values", half if torch.equal(half.float(), values) else values


def _coded_dense(delta: Tensor) -> Iterator[tuple[str, Tensor]]:
    positions = delta.nonzero().squeeze(1)
    code = _code(positions, len(delta))
    if len(code) + len(positions) * delta.element_size() < len(delta) * delta.element_size():
        yield "delta/positions", code
        delta = delta[positions]
    yield "delta/values", delta


def _as_it_is(name: str, values: Tensor) -> Tensor:
    if values.dtype not in _STORED_AS_THEY_ARE:
        raise ValueError(f"{name} is {values.dtype}")
    _check_finite(name, values)
    # a copy, as safetensors refuses two tensors that share memory
    return values.detach().cpu().clone(memory_format=torch.contiguous_format)


def _code(positions: Tensor, size: int) -> Tensor:
    return torch.frombuffer(bytearray(code_of(positions.numpy(), size)), dtype=torch.uint8)


def _rounded(delta: Tensor, dtype: torch.dtype) -> Tensor:
    if delta.dtype != torch.float32:
        raise ValueError(f"the delta is {delta.dtype}")
    rounded = delta.to(dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise FewshotError(
            f"A change of {float(delta.abs().max()):.3g} is more than float16 holds.", "Store the bank as float32."
        )
    return rounded


def _check_finite(name: str, values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise FewshotError(
            f"Meta-tuning diverged: {name} holds a value that is not a number.", "Try a lower learning rate."
        )


# --- reading ---------------------------------------------------------------------------------------------------------


def _gates(tensors: dict[str, Tensor], experts: int, size: int) -> tuple[Tensor, Tensor]:
    """Takes the gates `(experts, size)` out of `tensors`, and gives where any of them is open `(size,)`."""
    _check_codes(tensors, experts)
    gates = _zeros(experts, size)
    is_open = torch.zeros(size, dtype=torch.bool)
    for m, row in enumerate(gates):
        positions = _positions(tensors, f"gates/{m}/open", size)
        between = positions[_positions(tensors, f"gates/{m}/between", len(positions))]
        values = _finite(tensors, f"gates/{m}/values", len(between))
        if bool(((values <= 0) | (values >= 1)).any()):
            raise Malformed(f"gates/{m}/values holds a value that is not between 0 and 1")
        row[positions] = 1.0
        row[between] = values
        is_open[positions] = True
    return gates, is_open


def _check_codes(tensors: dict[str, Tensor], experts: int) -> None:
    """Before memory is taken for all of them."""
    for m in range(experts):
        if f"gates/{m}/open" not in tensors:
            raise Malformed(f"gates/{m}/open is missing")


def _dense_delta(tensors: dict[str, Tensor], size: int) -> Tensor:
    if "delta/positions" not in tensors:
        return _finite(tensors, "delta/values", size)
    positions = _positions(tensors, "delta/positions", size)
    values = _finite(tensors, "delta/values", len(positions))
    return _zeros(size).index_copy_(0, positions, values)


def _zeros(*shape: int) -> Tensor:
    try:
        return torch.zeros(shape)
    except RuntimeError:  # torch has no error of its own for memory that it can't get
        raise MemoryError from None


def _positions(tensors: dict[str, Tensor], name: str, size: int) -> Tensor:
    code = tensors.pop(name, None)
    if code is None or code.dtype != torch.uint8 or code.ndim != 1:
        raise Malformed(f"{name} is missing, or not bytes")
    try:
        return torch.from_numpy(positions_in(code.numpy().data, size))
    except BadCode as error:
        raise Malformed(f"{name} is no set of positions: {error}") from None


def _finite(tensors: dict[str, Tensor], name: str, count: int) -> Tensor:
    """Takes `count` values out of `tensors`, which may be stored as float16, as float32."""
    values = tensors.pop(name, None)
    if values is None or values.dtype not in _DTYPES.values() or tuple(values.shape) != (count,):
        raise Malformed(f"{name} is not float32 or float16 of shape ({count},)")
    if not bool(torch.isfinite(values).all()):
        raise Malformed(f"{name} holds a value that is not a number")
    return values.float()


def _others(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is left when delta and gates are taken."""
    others = {}
    for name in sorted(tensors):
        if not name.startswith("tensors/"):
            raise Malformed(f"it holds a tensor that belongs to nothing: {name}")
        if tensors[name].dtype not in _STORED_AS_THEY_ARE:
            raise Malformed(f"{name} is {tensors[name].dtype}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise Malformed(f"{name} holds a value that is not a number")
        others[name.removeprefix("tensors/")] = tensors[name]
    return others
