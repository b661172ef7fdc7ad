"""`fewshot eval RECIPE... --data DIR...` and `fewshot eval --check RUN`, once it is clear what is asked."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewshot_cli.cli.evaluate_file import Shown

if TYPE_CHECKING:
    from fewshot_cli.jobs.benchmark.run import ComparisonSettings
    from fewshot_cli.jobs.context import JobContext
    from fewshot_cli.recipes import Recipe


def compare(
    recipes: "dict[str, Recipe]",
    question: "ComparisonSettings",
    context: "JobContext",
    shown: Shown,
    splits: Path | None,
) -> None:
    """Compares the recipes, shows and writes what was found. Raises CheckFailed below the threshold."""
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.engine.distributed import joined
    from fewshot_cli.errors import CheckFailed
    from fewshot_cli.jobs.benchmark.run import compare as job
    from fewshot_cli.reports.terminal.comparison import compared
    from fewshot_cli.storage.atomic import is_stream, write_atomically

    with joined() as processes:
        try:
            work = replace(context, processes=processes)
            result, written = job(recipes, question, work, shown.output, splits)
        except KeyboardInterrupt as stop:
            if shown.output is not None and is_stream(shown.output):  # no journal lies beside it
                raise
            raise type(stop)("the same command goes on where this one stopped.") from None
    if processes.is_first:
        if shown.html is not None:
            from fewshot_cli.reports.documents.page import html as page

            write_atomically(shown.html, page(result))
        if shown.markdown is not None:
            from fewshot_cli.reports.documents.results_table import markdown as table

            write_atomically(shown.markdown, table(result))
        show(replace(result, file=str(written)), shown.json, compared)
    low = {name: found.accuracy for name, found in result.methods.items() if found.accuracy < (shown.threshold or 0)}
    if low:
        worst = min(low, key=lambda name: low[name])
        raise CheckFailed(
            f"{worst} is right in {low[worst]:.4f} of all answers, below the threshold of {shown.threshold}.",
            f"Every episode's result is in {written}.",
        )


def again(run: Path, data: list[Path], context: "JobContext", json: bool) -> None:
    """Does a run again, and shows that nothing differs."""
    from fewshot_cli.cli.terminal import show
    from fewshot_cli.engine.distributed import joined
    from fewshot_cli.jobs.benchmark.reproduce import repeat
    from fewshot_cli.reports.terminal.evaluate import repeated

    with joined() as processes:
        result = repeat(run, data, replace(context, processes=processes))
    if processes.is_first:
        show(result, json, repeated)
