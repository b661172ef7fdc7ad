"""The result of `demo`: those of its steps."""

from dataclasses import dataclass
from typing import ClassVar

from fewshot_cli.results.adapt import AdaptResult
from fewshot_cli.results.base import Result
from fewshot_cli.results.evaluate import EvalResult
from fewshot_cli.results.predict import PredictResult


@dataclass(frozen=True, kw_only=True)
class DemoResult(Result):
    """The results of the steps on drawn pictures."""

    command: ClassVar[str] = "demo"
    folder: str | None
    recipe: str
    adapt: AdaptResult
    eval: EvalResult
    predict: PredictResult
