"""What many episodes say: means with intervals for every method, and paired differences between every two."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from fewshot_cli.engine.trust.significance import Difference, holm, mean_interval, mean_over, paired, paired_over

Figures = Mapping[str, Sequence[float]]
"""By metric, a number for each episode."""

MEANS = ("balanced_accuracy", "ece", "nll")


def summarised(results: Mapping[str, Mapping[str, Figures]], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The "methods" and "pairs" of a report: `results` holds figures by recipe and row, `rows` says what a row is.

    Everything is a mean over episodes with a 95 % interval for the accuracy, except that seconds are a median, since
    what else the machine did in a few tasks says nothing about the method. Over all rows it is the plain mean of the
    rows' figures, and the median of all seconds.

    Rows of one data set (its sessions, or numbers of shots) hold parts of the same episodes. For intervals over all
    they are averaged episode by episode first; an episode counts once there, in all its rows.
    """
    names = [row["name"] for row in rows]
    strata = _strata(results, rows)
    return {
        "methods": {recipe: _method(found, names, strata) for recipe, found in results.items()},
        "pairs": _over_all(results, strata) + _row_by_row(results, names),
    }


def _strata(results: Mapping[str, Mapping[str, Figures]], rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The names of the rows that share episodes, together."""
    found = next(iter(results.values()), {})
    groups: dict[tuple[str, int], list[str]] = {}
    for row in rows:
        episodes = len(found[row["name"]]["accuracy"])
        groups.setdefault((row["data"], episodes), []).append(row["name"])
    return list(groups.values())


def _method(found: Mapping[str, Figures], names: Sequence[str], strata: Sequence[Sequence[str]]) -> dict[str, Any]:
    datasets = {name: _row(found[name]) for name in names}
    accuracy = mean_over(_accuracies(found, strata), _weights(strata))
    return {
        "accuracy": accuracy.mean,
        "ci95": accuracy.ci95,
        **{metric: statistics.fmean(row[metric] for row in datasets.values()) for metric in (*MEANS, "bytes")},
        "seconds": statistics.median(seconds for name in names for seconds in found[name]["seconds"]),
        "datasets": datasets,
    }


def _row(figures: Figures) -> dict[str, Any]:
    accuracy = mean_interval(figures["accuracy"])
    return {
        "accuracy": accuracy.mean,
        "ci95": accuracy.ci95,
        **{metric: statistics.fmean(figures[metric]) for metric in (*MEANS, "bytes")},
        "seconds": statistics.median(figures["seconds"]),
        "n": accuracy.n,
    }


def _accuracies(found: Mapping[str, Figures], strata: Sequence[Sequence[str]]) -> list[list[float]]:
    """For each stratum the accuracy of every episode, averaged over the stratum's rows."""
    return [np.mean([found[name]["accuracy"] for name in stratum], axis=0).tolist() for stratum in strata]


def _weights(strata: Sequence[Sequence[str]]) -> list[float]:
    """What makes the mean over strata that over rows."""
    count = sum(len(stratum) for stratum in strata)
    return [len(stratum) / count for stratum in strata]


def _over_all(results: Mapping[str, Mapping[str, Figures]], strata: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    accuracies = {recipe: _accuracies(found, strata) for recipe, found in results.items()}
    return _adjusted(
        [
            _pair(first, second, None, paired_over(accuracies[first], accuracies[second], _weights(strata)))
            for first, second in combinations(results, 2)
        ]
    )


def _row_by_row(results: Mapping[str, Mapping[str, Figures]], names: Sequence[str]) -> list[dict[str, Any]]:
    return _adjusted(
        [
            _pair(first, second, name, paired(results[first][name]["accuracy"], results[second][name]["accuracy"]))
            for first, second in combinations(results, 2)
            for name in names
        ]
    )


def _pair(first: str, second: str, dataset: str | None, found: Difference) -> dict[str, Any]:
    figures = asdict(found)
    return {"first": first, "second": second, "dataset": dataset, "difference": figures.pop("mean"), **figures}


def _adjusted(family: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with Holm's p values within these; where an episode is too few for a p there is none."""
    known = [pair for pair in family if pair["p"] is not None]
    adjusted = iter(holm([pair["p"] for pair in known]))
    return [pair | {"p_adjusted": None if pair["p"] is None else next(adjusted)} for pair in family]
