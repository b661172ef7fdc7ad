"""A classifier without one of its classes: exactly what learning from the others gives."""

import time
from dataclasses import replace
from pathlib import Path

from fewshot_cli.formats.delta.file import DeltaFile, Header, read_delta_file
from fewshot_cli.formats.kinds import stated_in
from fewshot_cli.jobs.edit.checks import changing, check_can_forget, check_can_lose, is_of_names_alone
from fewshot_cli.jobs.edit.editable_file import editable
from fewshot_cli.jobs.edit.refit import edited, refit, with_record, write_changed
from fewshot_cli.jobs.models.adapted import plain_head
from fewshot_cli.jobs.proofs.contents import check_contents
from fewshot_cli.jobs.run_record import versions
from fewshot_cli.results import EditResult, RemoveClassResult
from fewshot_cli.storage.atomic import staged


def remove_class(path: Path, name: str, output: Path) -> RemoveClassResult:
    """Writes the classifier without the class, its images or its texts forgotten.

    Where it was made from names alone, a class is a row of the head, and the others answer as before, to the bit. Else
    the head is fitted anew to the images of the others. Raises FewshotError where there is no such class, only one
    other, or neither way is open.
    """
    start = time.perf_counter()
    with changing(output):
        file = read_delta_file(path)
        check_can_lose(path, name, file.header.classes)
        check_can_forget(path)
        if is_of_names_alone(stated_in(path)):
            result, count = _without_row(path, file, name, output), 0
        else:
            whole = editable(path, file)
            rows = [row for row, label in enumerate(whole.known.names) if label != name]
            result, count = refit(whole, whole.known.without({name}), rows, output), whole.known.count(name)
        return with_record(result, RemoveClassResult, output, start, removed={name: count})


def _without_row(path: Path, file: DeltaFile, name: str, output: Path) -> EditResult:
    """Writes the file without the row of the head that the texts of the class made."""
    head = plain_head(file, path, "changed")
    others = [place for place, each in enumerate(file.header.classes) if each != name]
    head = replace(head, weight=head.weight[others], bias=head.bias[others])
    header = _header(file, name)
    with staged(output) as draft:
        size = write_changed(draft, file, header, head, file.stored.head, None)
        check_contents(draft, file.delta, file.graft, head, "made")
    return edited(path, file, output, header, size)


def _header(file: DeltaFile, name: str) -> Header:
    provenance = file.header.provenance
    texts = {each: said for each, said in provenance.texts.items() if each != name}
    provenance = provenance.model_copy(update={"texts": texts, "versions": versions(), "parents": (file.digest,)})
    classes = tuple(each for each in file.header.classes if each != name)
    return file.header.model_copy(update={"classes": classes, "provenance": provenance})
