"""The header of a delta file: everything in it that is not a tensor. docs/delta-format.md specifies it."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.formats.delta.rounding import Values

MOST_WEIGHTS = 2**32
"""Of a base. What a file makes a reader take memory for is bounded by its own size, and a byte for 64 of these."""

Length: TypeAlias = Annotated[int, Field(gt=0, le=MOST_WEIGHTS)]
Shape: TypeAlias = Annotated[tuple[Length, ...], Field(max_length=8)]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TowersFacts(BaseModel):
    """Of a two-tower model what its weights don't say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: dict[str, Any]
    """The arguments of open_clip's class: the shapes of both towers, and the activation."""
    repository: str = ""
    """Of the weights, on the hub, where they have one there."""


class BaseFacts(BaseModel):
    """The frozen model that the delta belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    """timm's name, or clip:MODEL/TAG."""
    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the weights; see engine.backbones.fingerprint."""
    body: Digest | None = None
    """The same without the classifier, where the weights were read with one."""
    size: int = Field(gt=0)
    """The number of its values."""
    licence: str
    preprocessing: Preprocessing
    towers: TowersFacts | None = None
    """Where it is a model with a text tower beside that for images."""

    def is_on_weights(self, fingerprint: str, body: str) -> bool:
        """Whether it is of the weights with this fingerprint, or with this one without their classifier."""
        return self.fingerprint == fingerprint or (self.body or self.fingerprint) == body

    def is_same_model(self, other: "BaseFacts") -> bool:
        """Whether both are of one model with the same weights, whatever their classifier."""
        return self.backbone == other.backbone and self.is_on_weights(
            other.fingerprint, other.body or other.fingerprint
        )

    @model_serializer(mode="wrap")
    def _without_what_is_unknown(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value for name, value in plain(self).items() if name not in ("body", "towers") or value is not None
        }

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


class HeldOutScores(BaseModel):
    """What held-out images scored, so that pictures of none of the classes can be refused, and label sets promised."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    score: Literal["energy", "probability"]
    """How `known` was computed from the logits."""
    known: tuple[float, ...]
    """How known each held-out image of the classes is, raised for what its class lost, sorted; engine.trust.unknown."""
    nonconformity: tuple[tuple[float, ...], ...]
    """Of each class, in their order: 1 - the probability of the true label, sorted; see engine.trust.conformal."""


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
    """The digests of the delta files that it was composed from, or of the one whose classes or labels were changed."""
    texts: dict[str, tuple[str, ...]] = {}
    """What a text tower was told of each class."""
    held_out: HeldOutScores | None = None
    """Where held-out images were answered about."""

    @model_serializer(mode="wrap")
    def _without_what_is_none(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in plain(self).items() if name not in ("texts", "held_out") or value}


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
        """The name of the recipe's method, or of its head where it has nothing else."""
        section = self.recipe.get("method") or self.recipe.get("head")
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


class GraftFacts(BaseModel):
    """Of a graft everything but its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: dict[str, Any]
    """The name of its kind, and that kind's settings."""
    sites: Annotated[tuple[str, ...], Field(min_length=1, max_length=4096)]
    """timm's names of the modules it hangs on; "" is the backbone itself."""


class TransductiveFacts(BaseModel):
    """Of a transductive head everything but the support set."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    settings: dict[str, Any]
    """The name of its method, and that method's settings."""
    factor: float
    """What its logits are multiplied by."""


class SectionedHeader(StoredHeader):
    """The header of version 3: what version 2 says, and which sections there are."""

    graft: GraftFacts | None
    transductive: TransductiveFacts | None
    """In the place of a linear head, which is then missing."""
    support: bool

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.transductive is not None and not self.support:
            raise ValueError("a transductive head without its support set can't be")
        if self.graft is None and not self.support:
            raise ValueError("a file without sections is of version 2")
        return self


class MarkingHeader(SectionedHeader):
    """The header of version 4: an image has each label whose probability, by itself, is above its threshold."""

    thresholds: tuple[Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)], ...]
    """In the order of the classes."""

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if len(self.thresholds) != len(self.classes):
            raise ValueError(f"there are {len(self.thresholds)} thresholds for {len(self.classes)} classes")
        if self.graft is not None or self.transductive is not None or self.support:
            raise ValueError("a classifier of several labels has no sections")
        return self
