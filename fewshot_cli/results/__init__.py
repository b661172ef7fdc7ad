"""What jobs return: typed results, of which `--json`, the terminal's views and pages are views. Nothing heavy here."""

from fewshot_cli.results.base import ExpectedAccuracy, Result, Skipped, StoredAs
from fewshot_cli.results.classify import (
    AdaptResult,
    AskedFile,
    BegunFrom,
    ClassAccuracy,
    ClassSize,
    DemoResult,
    DoctorResult,
    EvalResult,
    Hung,
    Prediction,
    PredictResult,
    Problem,
    Pruning,
    RecordedEvalResult,
    RoundingCost,
)

__all__ = [
    "AdaptResult",
    "AskedFile",
    "BegunFrom",
    "ClassAccuracy",
    "ClassSize",
    "DemoResult",
    "DoctorResult",
    "EvalResult",
    "ExpectedAccuracy",
    "Hung",
    "PredictResult",
    "Prediction",
    "Problem",
    "Pruning",
    "RecordedEvalResult",
    "Result",
    "RoundingCost",
    "Skipped",
    "StoredAs",
]
