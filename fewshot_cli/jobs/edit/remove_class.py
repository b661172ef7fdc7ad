"""A classifier without one of its classes: exactly what learning from the others gives."""

import time
from pathlib import Path

from fewshot_cli.jobs.edit.checks import changing, check_can_lose
from fewshot_cli.jobs.edit.editable_file import kept_in
from fewshot_cli.jobs.edit.refit import refit, with_record
from fewshot_cli.results import RemoveClassResult


def remove_class(path: Path, name: str, output: Path) -> RemoveClassResult:
    """Writes the classifier without the class, its images forgotten.

    Raises FewshotError where there is no such class, or only one other.
    """
    start = time.perf_counter()
    with changing(output):
        kept = kept_in(path)
        check_can_lose(path, name, kept.file.header.classes)
        rows = [row for row, label in enumerate(kept.known.names) if label != name]
        result = refit(kept, kept.known.without({name}), rows, output)
        return with_record(result, RemoveClassResult, output, start, removed={name: kept.known.count(name)})
