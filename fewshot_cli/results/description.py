"""The results of `inspect`: what a delta file or a bank holds, and the files that it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, ExpectedAccuracy, Result


@dataclass(frozen=True)
class AncestralBase:
    """The backbone that a file and all its ancestors are on."""

    backbone: str
    fingerprint: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """A file that another comes from. If no more than this is known, it is not at hand or was told of before.

    `base` is told of the file at the root only, and `file` is None where it is not at hand.
    """

    base: AncestralBase | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    kind: str
    sha256: str
    file: str | None


@dataclass(frozen=True, kw_only=True)
class DeltaAncestor(Ancestor):
    """A delta file that was read, with the bank it began from and the files it was composed of or changed from."""

    kind: str = "delta"
    method: str | None
    classes: tuple[str, ...]
    recipe: Mapping[str, Any]
    seed: int
    images: int
    data: str
    versions: Mapping[str, str]
    bank: Ancestor | None
    parents: tuple[Ancestor, ...]


@dataclass(frozen=True, kw_only=True)
class BankAncestor(Ancestor):
    """A bank that was read, with the bank that meta-tuning began from."""

    kind: str = "bank"
    method: str | None
    recipe: Mapping[str, Any]
    seed: int
    episodes: int
    data: Mapping[str, str]
    validation: Mapping[str, float]
    versions: Mapping[str, str]
    bank: Ancestor | None
    parents: tuple[Ancestor, ...] = ()


@dataclass(frozen=True)
class TowersDescription:
    """What the weights of a two-tower backbone don't say: its activation, and how it prepares pictures.

    `crop` and `interpolation` are of timm's transform. `repository` is where the hub has its weights, "" where that is
    not known. Where `needs_open_clip`, its image tower is none of timm's.
    """

    activation: str
    crop: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    repository: str
    needs_open_clip: bool


@dataclass(frozen=True, kw_only=True)
class InspectResult(Result):
    """What every file of ours has. `image_size` is height and width in pixels."""

    command: ClassVar[str] = "inspect"
    file: str
    bytes: int
    sha256: str
    backbone: str
    fingerprint: str
    licence: str
    image_size: tuple[int, ...]
    towers: TowersDescription | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Of a backbone with an image tower and a text tower."""


@dataclass(frozen=True)
class HeadFacts:
    """The number of features that a head takes, and how it is kept; `transductive` are the settings of such a head."""

    dim: int
    unit_norm: bool
    values: str
    transductive: Mapping[str, Any] | None


@dataclass(frozen=True)
class GraftDescription:
    """The settings of what hangs in the network, in which of its modules, and how many values it has."""

    kind: Mapping[str, Any]
    sites: tuple[str, ...]
    values: int


@dataclass(frozen=True)
class SupportFacts:
    """How many images' features a file keeps, and in how many bytes."""

    images: int
    bytes: int


@dataclass(frozen=True)
class ChangedParameter:
    """A parameter of the backbone, how its change is kept, and how many of its values change."""

    parameter: str
    shape: tuple[int, ...]
    form: str
    values: str
    changed: int


@dataclass(frozen=True, kw_only=True)
class InspectDeltaResult(InspectResult):
    """What a delta file holds. `density` is the share of the backbone's values that change, in [0, 1]."""

    method: str | None
    classes: tuple[str, ...]
    head: HeadFacts
    graft: GraftDescription | None
    support: SupportFacts | None
    density: float
    changes: tuple[ChangedParameter, ...]
    format: int
    values: str
    bytes_per_changed_weight: float | None
    recipe: Mapping[str, Any]
    seed: int
    images: int
    data: str
    """The SHA-256 of labels and contents."""
    expected_accuracy: ExpectedAccuracy
    versions: Mapping[str, str]
    bank: str | None
    """The digest of the bank that it began from."""
    parents: tuple[str, ...]
    """The digests of the files that it was composed of or changed from."""
    texts: Mapping[str, tuple[str, ...]] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """By class, what a text tower was told."""
    thresholds: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Where an image may have several labels: the probability above which it has each."""
    chain: DeltaAncestor


@dataclass(frozen=True)
class LayerFacts:
    """A parameter in a bank: its number of values, the share that each expert opens, the length of its change."""

    name: str
    size: int
    density: tuple[float, ...]
    norm: float


@dataclass(frozen=True, kw_only=True)
class InspectBankResult(InspectResult):
    """What a bank holds. All shares are in [0, 1].

    `density` is that of the union of all experts: a change adapted from the bank is no denser. `expert_between` is the
    share of an expert's open gates that are below 1. What two experts have in common is intersection over union.
    """

    kind: str
    experts: int
    size: int
    bytes_as_float32: int
    density: float
    expert_density: tuple[float, ...]
    expert_between: tuple[float, ...]
    layers: tuple[LayerFacts, ...]
    overlap: tuple[tuple[float, ...], ...]
    overlap_by_chance: tuple[tuple[float, ...], ...]
    recipe: Mapping[str, Any]
    router: Mapping[str, Any]
    settings: Mapping[str, Any]
    tensors: Mapping[str, tuple[int, ...]]
    """The shape of each tensor beside the change of the weights."""
    seed: int
    episodes: int
    data: Mapping[str, str]
    validation: Mapping[str, float]
    versions: Mapping[str, str]
    parent: str | None
    """The digest of the bank that meta-tuning began from."""
    chain: BankAncestor


AnyInspected: TypeAlias = InspectBankResult | InspectDeltaResult
