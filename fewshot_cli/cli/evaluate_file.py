"""`fewshot eval FILE FOLDER`, once it is clear what is asked."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_cli.errors import CheckFailed, FewshotError

if TYPE_CHECKING:
    from fewshot_cli.jobs.classify.prediction.inputs import Promises
    from fewshot_cli.jobs.context import JobContext


@dataclass(frozen=True)
class Shown:
    """How a result is shown, where it is written, and below which accuracy the command leaves with 3."""

    json: bool
    output: Path | None
    html: Path | None
    markdown: Path | None
    threshold: float | None


def check_pages(file: Path, shown: Shown) -> None:
    """Raises FewshotError for pages whose tables are of one label an image, where the file gives several."""
    for option, path in (("--report", shown.html), ("--markdown", shown.markdown)):
        if path is not None:
            raise FewshotError(
                f"{option} has tables of one label an image, and {file} gives several.",
                "Leave it out; -o RUN and --json have precision and recall of each class.",
            )


def one_label(file: Path, folder: Path, promises: "Promises", context: "JobContext", shown: Shown) -> None:
    """Evaluates a classifier, shows the result and leaves its record. Raises CheckFailed below the threshold."""
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.classify.evaluate import evaluate, leave_record
    from fewshot_cli.reports.terminal.evaluate import evaluated
    from fewshot_cli.storage.atomic import write_atomically

    result = leave_record(evaluate(file, folder, context, promises), shown.output)
    if shown.html is not None:
        from fewshot_cli.reports.documents.page import evaluation_page

        write_atomically(shown.html, evaluation_page(result))
    if shown.markdown is not None:
        from fewshot_cli.reports.documents.results_table import evaluation_table

        write_atomically(shown.markdown, evaluation_table(result))
    show(result, shown.json, evaluated)
    if result.record is None:  # a delta file in a folder of others is no reason to fail
        print(f"This run leaves no record: {file.parent} can't be written.", file=sys.stderr)
    if shown.threshold is not None and result.accuracy < shown.threshold:
        raise CheckFailed(
            f"{file} is right on {result.accuracy:.4f} of the images, below the threshold of {shown.threshold}.",
            "The classes with the fewest right answers say where more images would help.",
        )


def several_labels(file: Path, folder: Path, context: "JobContext", shown: Shown) -> None:
    """The same for a classifier that gives an image several labels."""
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.jobs.several_labels.evaluate import evaluate_label_sets, leave_record_of_sets
    from fewshot_cli.reports.terminal.label_sets import evaluated_sets

    result = leave_record_of_sets(evaluate_label_sets(file, folder, context), shown.output)
    show(result, shown.json, evaluated_sets)
    if shown.threshold is not None and result.accuracy < shown.threshold:
        raise CheckFailed(
            f"{file} gives {result.accuracy:.4f} of the images just their labels, below the threshold of "
            f"{shown.threshold}.",
            "The classes of the lowest F1 say where more images would help.",
        )
