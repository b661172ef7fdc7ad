"""The delta file: a classifier as what was added to a frozen backbone, and a head. docs/delta-format.md specifies it.

It is a safetensors file. Tensors: `head.weight`, `head.bias`, and for every changed parameter NAME either `dense/NAME`,
or `positions/NAME` and `values/NAME`, or `left/NAME` and `right/NAME`. The header is JSON in its metadata.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from fewshot_cli.engine.deltas import Change, Delta, Dense, LowRank, Sparse
from fewshot_cli.engine.heads import Head
from fewshot_cli.engine.preprocessing import Preprocessing
from fewshot_cli.files.signed import Kind, Malformed, read_signed, signed_bytes

KIND = Kind("fewshot-delta", 1, "delta file", "fewshot adapt FOLDER -o FILE")


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


class Header(BaseModel):
    """Everything in a delta file that is not a tensor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: BaseFacts
    classes: tuple[str, ...] = Field(min_length=2)
    unit_norm: bool
    """Whether the head takes features of unit norm."""
    shapes: dict[str, tuple[Annotated[int, Field(gt=0)], ...]]
    """The changed parameters and their shapes."""
    recipe: dict[str, Any]
    """As it was at the time: other versions of fewshot may have other settings."""
    provenance: Provenance

    @property
    def method(self) -> str | None:
        """The name of the recipe's method."""
        section = self.recipe.get("method")
        name = section.get("name") if isinstance(section, dict) else None
        return name if isinstance(name, str) else None


@dataclass(frozen=True)
class DeltaFile:
    """A classifier as it lies on disk. `digest` is the SHA-256 of its content."""

    header: Header
    delta: Delta
    head: Head
    digest: str


def write_delta_file(path: Path, header: Header, delta: Delta, head: Head) -> int:
    """Writes the file, each change in whichever form is smallest, and gives its size in bytes.

    Not atomic: write into a `staged` file, so that it can be proved before it takes its place.
    """
    content = signed_bytes(KIND, header, _tensors(delta, head))
    path.write_bytes(content)
    return len(content)


def delta_bytes(delta: Delta) -> int:
    """How many bytes the tensors of the delta take in the file."""
    return 4 * sum(_fewest_numbers(change) for change in delta.values())


def head_bytes(head: Head) -> int:
    """How many bytes the tensors of the head take in the file."""
    return 4 * (head.weight.numel() + head.bias.numel())


def read_delta_file(path: Path) -> DeltaFile:
    """The classifier in `path`.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of a newer version, or not a
    delta file at all. No content of a file makes it do anything else.
    """
    header, tensors, digest = read_signed(path, KIND, Header)
    try:
        delta = {name: _decoded(name, shape, tensors) for name, shape in header.shapes.items()}
        head = _head(header, tensors)
    except Malformed as error:
        raise KIND.damaged(path, str(error)) from None
    if tensors:
        raise KIND.damaged(path, f"it holds a tensor that belongs to nothing: {min(tensors)}")
    return DeltaFile(header, delta, head, digest)


def _tensors(delta: Delta, head: Head) -> dict[str, Tensor]:
    tensors = {"head.weight": head.weight, "head.bias": head.bias}
    for name, change in delta.items():
        tensors |= _coded(name, smallest(change))
    return tensors


def smallest(change: Change) -> Change:
    """The same change in the form that takes the fewest bytes: as it is, sparse or dense."""
    values = change.added_to(torch.zeros(change.shape).to(_values(change)))
    positions = values.flatten().nonzero().squeeze(1)
    sparse = Sparse(change.shape, positions, values.flatten()[positions])
    return min(change, sparse, Dense(values), key=_numbers)


def _fewest_numbers(change: Change) -> int:
    """How many numbers of four bytes the file takes for the change in its smallest form, which is not made."""
    not_zero = change.nonzeros() if isinstance(change, LowRank) else int(torch.count_nonzero(change.values))
    return min(_numbers(change), 2 * not_zero, math.prod(change.shape))


def _values(change: Change) -> Tensor:
    return change.left if isinstance(change, LowRank) else change.values


def _numbers(change: Change) -> int:
    """How many numbers of four bytes the file takes for it."""
    match change:
        case Dense():
            return change.values.numel()
        case Sparse():
            return 2 * change.values.numel()
        case LowRank():
            return change.left.numel() + change.right.numel()


def _coded(name: str, change: Change) -> dict[str, Tensor]:
    match change:
        case Dense():
            return {f"dense/{name}": change.values}
        case Sparse():
            return {f"positions/{name}": change.positions.to(torch.int32), f"values/{name}": change.values}
        case LowRank():
            return {f"left/{name}": change.left, f"right/{name}": change.right}


def _decoded(name: str, shape: tuple[int, ...], tensors: dict[str, Tensor]) -> Change:
    """Takes the tensors of one parameter out of `tensors`; raises Malformed unless they are a change of that shape."""
    size = math.prod(shape)
    if f"dense/{name}" in tensors:
        return Dense(_taken(tensors, f"dense/{name}", shape))
    if f"left/{name}" in tensors:
        rows, rank = shape[0] if shape else 1, _width(tensors[f"left/{name}"])
        left = _taken(tensors, f"left/{name}", (rows, rank))
        return LowRank(shape, left, _taken(tensors, f"right/{name}", (rank, size // rows)))
    positions = tensors.pop(f"positions/{name}", None)
    if positions is None or positions.dtype != torch.int32 or positions.ndim != 1:
        raise Malformed(f"the change of {name} is missing")
    positions = positions.long()
    outside = len(positions) and (int(positions[0]) < 0 or int(positions[-1]) >= size)
    if outside or bool((positions.diff() <= 0).any()):
        raise Malformed(f"the positions in {name} are not rising within its {size} values")
    return Sparse(shape, positions, _taken(tensors, f"values/{name}", (len(positions),)))


def _taken(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    values = tensors.pop(name, None)
    if values is None or values.dtype != torch.float32 or tuple(values.shape) != shape:
        raise Malformed(f"{name} is not float32 of shape {shape}")
    if not bool(torch.isfinite(values).all()):
        raise Malformed(f"{name} holds a value that is not a number")
    return values


def _head(header: Header, tensors: dict[str, Tensor]) -> Head:
    way = len(header.classes)
    if len(set(header.classes)) < way:
        raise Malformed("two classes have the same name")
    dim = _width(tensors.get("head.weight", torch.empty(0)))
    return Head(_taken(tensors, "head.weight", (way, dim)), _taken(tensors, "head.bias", (way,)), header.unit_norm)


def _width(matrix: Tensor) -> int:
    return matrix.shape[-1] if matrix.ndim else 0
