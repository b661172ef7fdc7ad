"""How many pictures could not be read or are unknown, and what is promised of sets of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fewshot_cli.images.sources.class_folders import UNKNOWN
from fewshot_cli.jobs.classify.prediction.rows import Predictor
from fewshot_cli.results import Prediction


@dataclass
class Count:
    """How many rows there were, and of how many pictures that could not be read or are unknown."""

    rows: int = 0
    unread: int = 0
    unknown: int = 0

    def add(self, rows: Sequence[Prediction]) -> None:
        """Counts these, too."""
        self.rows += len(rows)
        self.unread += sum(row.error is not None for row in rows)
        self.unknown += sum(row.label == UNKNOWN for row in rows)


def promised(predictors: Sequence[Predictor], count: Count) -> dict[str, Any]:
    """The share that is unknown, where a classifier can say so, and what is promised of sets of labels.

    That is promised for each class only where every classifier promises it.
    """
    read, found = count.rows - count.unread, dict[str, Any]()
    if read and any(predictor.may_be_unknown for predictor in predictors):
        found["unknown"] = count.unknown / read
    sets = [predictor.rules.sets for predictor in predictors if predictor.rules and predictor.rules.sets]
    if sets:
        found |= {"coverage": sets[0].coverage, "coverage_by_class": all(each.by_class for each in sets)}
    return found
