"""`fewshot eval FILE FOLDER` of a classifier that gives an image several labels."""

from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_cli.cli import options
from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    import torch

    from fewshot_cli.jobs.models.backbones import Source
    from fewshot_cli.jobs.progress import Progress


def check_pages(file: Path, html: Path | None, markdown: Path | None) -> None:
    """Raises FewshotError for pages whose tables are of one label an image."""
    for option, path in (("--report", html), ("--markdown", markdown)):
        if path is not None:
            raise FewshotError(
                f"{option} has tables of one label an image, and {file} gives several.",
                "Leave it out; -o RUN and --json have precision and recall of each class.",
            )


def evaluate(
    file: Path,
    folder: Path,
    where: "Source",
    device: "torch.device",
    no_cache: bool,
    progress: "Progress",
    json: bool,
    output: Path | None,
    html: Path | None,
    markdown: Path | None,
    threshold: float | None,
) -> None:
    """Evaluates, shows the result and leaves its record."""
    check_pages(file, html, markdown)
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.errors import CheckFailed
    from fewshot_cli.jobs.context import JobContext
    from fewshot_cli.jobs.several_labels.evaluate import evaluate_label_sets, leave_record_of_sets
    from fewshot_cli.reports.terminal.label_sets import evaluated_sets

    context = JobContext(where, device, options.feature_cache(no_cache), progress)
    result = leave_record_of_sets(evaluate_label_sets(file, folder, context), output)
    show(result, json, evaluated_sets)
    if threshold is not None and result.accuracy < threshold:
        raise CheckFailed(
            f"{file} gives {result.accuracy:.4f} of the images just their labels, below the threshold of {threshold}.",
            "The classes of the lowest F1 say where more images would help.",
        )
