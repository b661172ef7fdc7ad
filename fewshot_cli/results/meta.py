"""The result of `meta-tune`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, Result


@dataclass(frozen=True)
class EpochFacts:
    """How the run went until the end of an epoch, and the accuracy of its validation by data set.

    `sparsity` and `router` are of each expert, where there are experts.
    """

    epoch: int
    tasks: int
    loss: float
    accuracy: float | None
    validation: Mapping[str, float]
    sparsity: tuple[float, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    router: tuple[float, ...] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)


@dataclass(frozen=True)
class Validated:
    """The accuracy of validation on a data set."""

    accuracy: float


@dataclass(frozen=True)
class DomainSize:
    """What was practised on."""

    classes: int
    images: int


@dataclass(frozen=True, kw_only=True)
class MetaTuneResult(Result):
    """A run of meta-tuning and the bank that it left."""

    command: ClassVar[str] = "meta-tune"
    seed: int
    backbone: str
    image_size: int
    method: str
    file: str
    bytes: int
    episodes: int
    epochs: tuple[EpochFacts, ...]
    best_epoch: int
    accuracy: float | None
    datasets: Mapping[str, Validated]
    domains: Mapping[str, DomainSize]
    seconds: Mapping[str, float]
    device: str
    threads: int
    sources: tuple[str, ...]
    split: str | None
    validation_sources: tuple[str, ...]
    validation_split: str | None
    values: str
    recipe: Mapping[str, Any]
    data: Mapping[str, str]
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """What the run remarked on its way, as that a fast path was left."""


def read_meta_tune(report: Mapping[str, Any]) -> MetaTuneResult:
    """The result that a report says, as in the record of a run. Raises KeyError or TypeError where it is none."""
    facts = {each.name: report[each.name] for each in fields(MetaTuneResult) if each.name in report}
    typed: dict[str, Any] = {
        "epochs": tuple(EpochFacts(**epoch) for epoch in facts["epochs"]),
        "notes": tuple(facts.get("notes", ())),
        "datasets": {name: Validated(**found) for name, found in facts["datasets"].items()},
        "domains": {name: DomainSize(**found) for name, found in facts["domains"].items()},
    }
    return MetaTuneResult(**{**facts, **typed})
