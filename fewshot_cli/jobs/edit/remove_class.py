"""A classifier without one of its classes: exactly what learning from the others gives."""

import time
from pathlib import Path

from fewshot_cli.jobs.edit.checks import changing, check_can_lose
from fewshot_cli.jobs.edit.editable_file import read_editable
from fewshot_cli.jobs.edit.refit import refit, with_record
from fewshot_cli.results import RemoveClassResult


def remove_class(path: Path, name: str, output: Path) -> RemoveClassResult:
    """Writes the classifier without the class, its images forgotten.

    Raises FewshotError where there is no such class, or only one other.
    """
    start = time.perf_counter()
    with changing(output):
        editable = read_editable(path)
        check_can_lose(path, name, editable.file.header.classes)
        rows = [row for row, label in enumerate(editable.known.names) if label != name]
        result = refit(editable, editable.known.without({name}), rows, output)
        return with_record(result, RemoveClassResult, output, start, removed={name: editable.known.count(name)})
