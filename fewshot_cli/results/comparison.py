"""The results of `eval` of recipes over many episodes, and of repeating such a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from fewshot_cli.results.base import LEFT_OUT_IF_NONE, Result, Skipped


@dataclass(frozen=True)
class Figures:
    """Means over episodes, the accuracy's with the half width of its 95 % interval; `seconds` is a median."""

    accuracy: float
    ci95: float | None
    balanced_accuracy: float
    ece: float
    nll: float
    bytes: float
    seconds: float


@dataclass(frozen=True)
class RowFigures(Figures):
    """The figures on one row of a comparison, over `n` episodes."""

    n: int


@dataclass(frozen=True)
class RecipeFigures(Figures):
    """The figures of a recipe over all rows that count, and on each by its name."""

    datasets: Mapping[str, RowFigures]


@dataclass(frozen=True)
class Pair:
    """Two recipes on the same episodes of the row `dataset`, None for all: how far the first is ahead.

    `wins`, `ties` and `losses` count the episodes in which the first has more, as much, less; `p_adjusted` is Holm's.
    """

    first: str
    second: str
    dataset: str | None
    difference: float
    ci95: float | None
    p: float | None
    wins: int
    ties: int
    losses: int
    n: int
    p_adjusted: float | None


@dataclass(frozen=True)
class Row:
    """A row of a comparison: a data set, at a number of shots, in a session, or a group of its queries."""

    name: str
    data: str
    shots: int | None
    session: int | None
    skipped: tuple[Skipped, ...] = ()
    """Images that are no support here, since queries hold them too."""
    group: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    beside: bool = False
    """Whether it is shown beside the others, and takes no part in the figures over all rows."""


@dataclass(frozen=True)
class DataFacts:
    """A data set that was asked about; `hash` is of its labels and contents."""

    path: str
    classes: int
    images: int
    skipped: tuple[Skipped, ...]
    hash: str


Metrics = Mapping[str, list[float]]
"""By metric, a number for each episode."""


@dataclass(frozen=True, kw_only=True)
class ComparisonResult(Result):
    """What was asked of which recipes, under which circumstances, and what came out.

    What differs between recipes, as the backbone may, is a mapping from their names. With a single recipe its method
    and figures are told once more at the top.
    """

    command: ClassVar[str] = "eval"
    seed: int
    backbone: str | Mapping[str, str]
    image_size: int | list[int] | Mapping[str, int | list[int]]
    device: str
    threads: int
    delta_format: int
    code: str
    episodes: int
    protocol: Mapping[str, Any]
    targets: tuple[str, ...]
    sources: tuple[str, ...]
    split: str | None
    method: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    accuracy: float | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    ci95: float | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    datasets: Mapping[str, RowFigures] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    transductive: tuple[str, ...]
    recipes: Mapping[str, Mapping[str, Any]]
    fingerprints: Mapping[str, str]
    banks: Mapping[str, str]
    data: Mapping[str, DataFacts]
    rows: tuple[Row, ...]
    methods: Mapping[str, RecipeFigures]
    pairs: tuple[Pair, ...]
    results: Mapping[str, Mapping[str, Metrics]]
    """By recipe and row, every episode's figures."""
    keys: Mapping[str, Mapping[str, str]]
    blocks: Mapping[str, int]
    versions: Mapping[str, str]
    seconds: Mapping[str, float] | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    file: str | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """The record of the run, where one was written."""


@dataclass(frozen=True, kw_only=True)
class RepeatedResult(ComparisonResult):
    """A run done again, and the record that it was compared with."""

    checked: str
    differences: int


def read_comparison(report: Mapping[str, Any]) -> ComparisonResult:
    """The result that a report says, as in the record of a run; keys that older records lack get empty values.

    Raises KeyError or TypeError where it is no such report.
    """
    known = {each.name for each in fields(ComparisonResult)}
    facts = {**_EMPTY, **{key: value for key, value in report.items() if key in known}}
    return ComparisonResult(
        **{
            **facts,
            "data": {name: DataFacts(**{**found, "skipped": _skipped(found)}) for name, found in facts["data"].items()},
            "rows": tuple(Row(**{**row, "skipped": _skipped(row)}) for row in facts["rows"]),
            "methods": {name: _recipe(found) for name, found in facts["methods"].items()},
            "datasets": _rows(facts["datasets"]) if facts.get("datasets") else None,
            "pairs": tuple(Pair(**pair) for pair in facts["pairs"]),
        }
    )


_EMPTY: dict[str, Any] = {
    "threads": 0,
    "delta_format": 0,
    "code": "",
    "targets": (),
    "sources": (),
    "split": None,
    "transductive": (),
    "fingerprints": {},
    "banks": {},
    "results": {},
    "keys": {},
    "blocks": {},
}


def _skipped(found: Mapping[str, Any]) -> tuple[Skipped, ...]:
    return tuple(Skipped(**item) for item in found.get("skipped", ()))


def _rows(found: Mapping[str, Any]) -> dict[str, RowFigures]:
    return {row: RowFigures(**figures) for row, figures in found.items()}


def _recipe(found: Mapping[str, Any]) -> RecipeFigures:
    return RecipeFigures(**{**found, "datasets": _rows(found["datasets"])})
