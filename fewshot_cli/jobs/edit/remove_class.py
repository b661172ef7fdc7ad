"""A classifier without one of its classes: exactly what learning from the others gives."""

import time
from pathlib import Path

from fewshot_cli.errors import FewshotError
from fewshot_cli.jobs.edit.checks import check_known
from fewshot_cli.jobs.edit.editable_file import kept_in
from fewshot_cli.jobs.edit.refit import refit, with_record
from fewshot_cli.results import RemoveClassResult
from fewshot_cli.storage.atomic import check_writable


def remove_class(path: Path, name: str, output: Path) -> RemoveClassResult:
    """Writes the classifier without the class, its images forgotten.

    Raises FewshotError where there is no such class, or only one other.
    """
    start = time.perf_counter()
    check_writable(output)
    kept = kept_in(path)
    check_known(name, kept.file.header.classes, path)
    if len(kept.known.classes) < 3:
        raise FewshotError(
            f"{path} has {len(kept.known.classes)} classes; without '{name}' there is nothing to tell apart.",
            "Add another class first, with `fewshot add-class`.",
        )
    rows = [row for row, label in enumerate(kept.known.names) if label != name]
    result = refit(kept, kept.known.without({name}), rows, output)
    return with_record(result, RemoveClassResult, output, start, removed={name: kept.known.count(name)})
