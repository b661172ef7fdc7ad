"""The bank: what meta-tuning learned, to adapt from. docs/bank-format.md specifies it.

It is a safetensors file. Tensors: `delta/values`, with `delta/positions` where a dense bank is mostly zeros; for every
expert M `gates/M/open`, `gates/M/between` and `gates/M/values`; and what else was learned as `tensors/NAME`. Sets of
positions are coded as in formats.coding. The header is JSON in its metadata.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.container import Malformed, read_signed, write_signed
from fewshot_cli.formats.delta.file import BaseFacts
from fewshot_cli.formats.flat_change import DTYPES, Values, check_finite, coded_change, read_change
from fewshot_cli.formats.kinds import BANK, OTHER_BANK

MOST_VALUES = 2**32
"""Delta and gates together: what a file of a few bytes can make a reader take memory for. ViT-L with 8 has 2.7e9."""
FIRST_KINDS = ("experts", "dense")
"""The kinds of bank that version 1 can hold."""

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
    kind: str = Field(pattern=r"^[a-z][a-z0-9 _-]{0,63}$")
    """`experts`, whose delta is added as they are mixed; `dense`, whose delta is added as it is; or something else,
    of which only its own reader knows how a task is learned from it."""
    shapes: dict[str, tuple[Annotated[int, Field(gt=0)], ...]]
    """The parameters the delta is for, in the order in which it holds them, and their shapes; none without a delta."""
    experts: int = Field(ge=0, le=1024)
    """How many have gates on the delta; 0 in a dense bank."""
    recipe: dict[str, Any]
    """As it was at the time: other versions of fewshot may have other settings."""
    settings: dict[str, Any]
    """What is needed besides the tensors to learn from the bank; version 1 calls it `router`."""
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

    @model_validator(mode="before")
    @classmethod
    def _of_a_router(cls, given: Any) -> Any:
        if not isinstance(given, dict) or "router" not in given or "settings" in given:
            return given
        return {"settings" if name == "router" else name: value for name, value in given.items()}

    @model_serializer(mode="wrap")
    def _as_its_version(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        facts: dict[str, Any] = dumped(self)
        if self.kind not in FIRST_KINDS:
            return facts
        return {"router" if name == "settings" else name: value for name, value in facts.items()}

    @model_validator(mode="after")
    def _possible(self) -> "BankHeader":
        if self.kind in FIRST_KINDS and (self.kind == "experts") != (self.experts > 0):
            raise ValueError(f"a bank of kind {self.kind} with {self.experts} experts can't be")
        needs_delta = self.kind in FIRST_KINDS or self.experts > 0 or bool(self.shapes)
        if self.size > self.base.size or (needs_delta and not self.size):
            raise ValueError(f"{self.size} values can't be changed in a base of {self.base.size}")
        if self.size * (1 + self.experts) > MOST_VALUES:
            raise ValueError(f"{self.experts} experts of {self.size} values are more than a bank can hold")
        return self


class _FirstHeader(BankHeader):
    """The header of version 1."""

    kind: Literal["experts", "dense"]


class _OtherHeader(BankHeader):
    """The header of version 2."""

    @field_validator("kind")
    @classmethod
    def _of_no_other_version(cls, kind: str) -> str:
        if kind in FIRST_KINDS:
            raise ValueError(f"a bank of kind {kind} has version 1")
        return kind


@dataclass(frozen=True)
class Bank:
    """What meta-tuning learned."""

    header: BankHeader
    delta: Tensor
    """`(size,)` float32: all parameters, one after the other, row by row. It is 0 where every gate is."""
    gates: Tensor | None
    """`(experts, size)` float32 in [0, 1]; None without experts."""
    tensors: dict[str, Tensor]
    """The router and anything else that is small."""
    digest: str
    """SHA-256 of the content."""


def write_bank(
    path: Path,
    header: BankHeader,
    delta: Tensor | None,
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
    stored = dict(_coded(header, delta, gates, tensors, DTYPES[values]))
    return write_signed(path, BANK if header.kind in FIRST_KINDS else OTHER_BANK, header, stored)


def read_bank(path: Path) -> Bank:
    """The bank in `path`.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of a newer version, or not a
    bank at all. No content of a file makes it do anything else. It takes memory for the file, for `delta` and `gates`,
    whose sizes the header states, and for coding one expert at a time, as formats.coding says.
    """
    header, tensors, digest = _read(path)
    try:
        delta, gates = read_change(tensors, header.size, header.experts)
        others = _others(tensors)
    except Malformed as error:
        raise BANK.damaged(path, str(error)) from None
    except MemoryError:
        needed = 4 * header.size * (1 + header.experts) / 1e9
        raise FewshotError(
            f"{path} can't be read: it needs {needed:.1f} GB of memory.", "Use a machine with more memory."
        ) from None
    return Bank(header, delta, gates, others, digest)


def read_bank_header(path: Path) -> tuple[BankHeader, str]:
    """The header and the digest of the bank in `path`, whose tensors stay coded. Errors are those of `read_bank`."""
    header, _, digest = _read(path)
    return header, digest


def _read(path: Path) -> tuple[BankHeader, dict[str, Tensor], str]:
    header, tensors, digest = read_signed(path, OTHER_BANK, _OtherHeader, {1: _FirstHeader})
    return BankHeader.model_construct(**dict(header)), tensors, digest  # of whichever version, as one class


def _coded(
    header: BankHeader, delta: Tensor | None, gates: Tensor | None, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file by name."""
    delta = torch.zeros(0) if delta is None else delta
    expected = (header.experts, header.size) if header.experts else None
    found = None if gates is None else tuple(gates.shape)
    if expected != found or tuple(delta.shape) != (header.size,):
        raise ValueError(f"gates {found} and delta {tuple(delta.shape)} don't fit a bank of {expected}, {header.size}")
    if header.size:
        yield from coded_change(delta, gates, dtype)
    for name, values in tensors.items():
        yield f"tensors/{name}", _as_it_is(name, values)


def _as_it_is(name: str, values: Tensor) -> Tensor:
    if values.dtype not in _STORED_AS_THEY_ARE:
        raise ValueError(f"{name} is {values.dtype}")
    check_finite(name, values)
    # a copy, as safetensors refuses two tensors that share memory
    return values.detach().cpu().clone(memory_format=torch.contiguous_format)


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
