"""What many episodes say: means with intervals for every method, and paired differences between every two."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations

import numpy as np

from fewshot_cli.engine.trust.significance import Difference, holm, mean_interval, mean_over, paired, paired_over
from fewshot_cli.results import Metrics, Pair, RecipeFigures, Row, RowFigures


@dataclass(frozen=True)
class Summary:
    """The figures of each recipe, and the differences of every two."""

    methods: Mapping[str, RecipeFigures]
    pairs: tuple[Pair, ...]


def summarised(results: Mapping[str, Mapping[str, Metrics]], rows: Sequence[Row]) -> Summary:
    """What a comparison says of its recipes: `results` holds numbers by recipe and row, `rows` says what a row is.

    Everything is a mean over episodes with a 95 % interval for the accuracy, except that seconds are a median, since
    what else the machine did in a few tasks says nothing about the method. Over all rows it is the plain mean of the
    rows' figures, and the median of all seconds.

    Rows of one data set (its sessions, or numbers of shots) hold parts of the same episodes. For intervals over all
    they are averaged episode by episode first; an episode counts once there, in all its rows. Rows that are shown
    beside the others have figures and differences of their own, and take no part in those over all.
    """
    names = [row.name for row in rows]
    strata = _strata(results, [row for row in rows if not row.beside])
    methods = {recipe: _method(found, names, strata) for recipe, found in results.items()}
    return Summary(methods, (*_over_all(results, strata), *_row_by_row(results, names)))


def _strata(results: Mapping[str, Mapping[str, Metrics]], rows: Sequence[Row]) -> list[list[str]]:
    """The names of the rows that share episodes, together."""
    found = next(iter(results.values()), {})
    groups: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        episodes = len(found[row.name]["accuracy"])
        groups.setdefault((row.data, episodes), []).append(row.name)
    return list(groups.values())


def _method(found: Mapping[str, Metrics], names: Sequence[str], strata: Sequence[Sequence[str]]) -> RecipeFigures:
    datasets = {name: _row(found[name]) for name in names}
    counted = [name for stratum in strata for name in stratum]
    accuracy = mean_over(_accuracies(found, strata), _weights(strata))

    def mean(metric: str) -> float:
        return statistics.fmean(getattr(row, metric) for row in map(datasets.__getitem__, counted))

    return RecipeFigures(
        accuracy=accuracy.mean,
        ci95=accuracy.ci95,
        balanced_accuracy=mean("balanced_accuracy"),
        ece=mean("ece"),
        nll=mean("nll"),
        bytes=mean("bytes"),
        seconds=statistics.median(seconds for name in counted for seconds in found[name]["seconds"]),
        datasets=datasets,
    )


def _row(metrics: Metrics) -> RowFigures:
    accuracy = mean_interval(metrics["accuracy"])
    return RowFigures(
        accuracy=accuracy.mean,
        ci95=accuracy.ci95,
        balanced_accuracy=statistics.fmean(metrics["balanced_accuracy"]),
        ece=statistics.fmean(metrics["ece"]),
        nll=statistics.fmean(metrics["nll"]),
        bytes=statistics.fmean(metrics["bytes"]),
        seconds=statistics.median(metrics["seconds"]),
        n=accuracy.n,
    )


def _accuracies(found: Mapping[str, Metrics], strata: Sequence[Sequence[str]]) -> list[list[float]]:
    """For each stratum the accuracy of every episode, averaged over the stratum's rows."""
    return [np.mean([found[name]["accuracy"] for name in stratum], axis=0).tolist() for stratum in strata]


def _weights(strata: Sequence[Sequence[str]]) -> list[float]:
    """What makes the mean over strata that over rows."""
    count = sum(len(stratum) for stratum in strata)
    return [len(stratum) / count for stratum in strata]


def _over_all(results: Mapping[str, Mapping[str, Metrics]], strata: Sequence[Sequence[str]]) -> list[Pair]:
    accuracies = {recipe: _accuracies(found, strata) for recipe, found in results.items()}
    return _adjusted(
        [
            _pair(first, second, None, paired_over(accuracies[first], accuracies[second], _weights(strata)))
            for first, second in combinations(results, 2)
        ]
    )


def _row_by_row(results: Mapping[str, Mapping[str, Metrics]], names: Sequence[str]) -> list[Pair]:
    return _adjusted(
        [
            _pair(first, second, name, paired(results[first][name]["accuracy"], results[second][name]["accuracy"]))
            for first, second in combinations(results, 2)
            for name in names
        ]
    )


def _pair(first: str, second: str, dataset: str | None, found: Difference) -> Pair:
    return Pair(
        first,
        second,
        dataset,
        found.mean,
        **{each.name: getattr(found, each.name) for each in fields(found) if each.name != "mean"},
        p_adjusted=None,
    )


def _adjusted(family: list[Pair]) -> list[Pair]:
    """The comparisons with Holm's p values within these; where an episode is too few for a p there is none."""
    adjusted = iter(holm([pair.p for pair in family if pair.p is not None]))
    return [pair if pair.p is None else replace(pair, p_adjusted=next(adjusted)) for pair in family]
