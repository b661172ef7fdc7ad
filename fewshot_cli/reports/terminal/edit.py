"""What became of a classifier whose classes or labels were changed."""

from rich.console import RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, percent, size, skipped_files
from fewshot_cli.results import AddClassResult, CorrectResult, EditResult, RemoveClassResult, RenameClassResult

MOST = 10  # corrected pictures to name


def edited(result: EditResult) -> RenderableType:
    """The result of `add-class`, `remove-class`, `rename-class` or `correct`, for people."""
    expected = result.expected_accuracy
    accuracy = (
        Text(f"not known: {expected.how}", style="yellow")
        if expected.mean is None
        else Text.assemble((expectation(expected), "bold green"), (f"\n{expected.how}", "dim"))
    )
    skipped = result.skipped if isinstance(result, AddClassResult | CorrectResult) else ()
    return facts(
        *_done(result),
        *skipped_files(skipped),
        ("classes", classes(result.classes)),
        ("images", str(result.images)),
        *_old_classes(result),
        ("expect", accuracy),
        ("wrote", f"{result.file}, {size(result.bytes)}, proved: read back, it is what was made"),
        ("comes from", f"{result.comes_from.file}, sha256 {result.comes_from.sha256[:12]}"),
    )


def _done(result: EditResult) -> list[tuple[str, str | Text]]:
    """What was changed, a row for each kind."""
    rows: list[tuple[str, str | Text]] = []
    if isinstance(result, AddClassResult):
        read = result.texts or {}
        rows += [("added", f"{name} ({_images(n)})") for name, n in result.added.items() if name not in read]
        rows += [("added", f"{name}, by its name alone") for name in read]
        rows += [("read", f"{' | '.join(said)}, by the text tower of {result.backbone}") for said in read.values()]
        rows += [("more of", f"{name} ({_images(count)})") for name, count in result.more.items()]
    if isinstance(result, RemoveClassResult):
        rows += [
            ("removed", f"{name} ({_images(count)})" if count else f"{name}, known by its name alone")
            for name, count in result.removed.items()
        ]
    if isinstance(result, RenameClassResult):
        rows += [("renamed", f"{old} is now {new}") for old, new in result.renamed.items()]
    if isinstance(result, CorrectResult):
        wrong = result.corrected
        rows += [("corrected", f"{item.path}: {item.before} is now {item.after}") for item in wrong[:MOST]]
        rows += [("corrected", f"and {len(wrong) - MOST} more")] * (len(wrong) > MOST)
        rows += [("learned from", f"{_images(result.learned)} that it didn't know")] * (result.learned > 0)
    return rows


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _old_classes(result: EditResult) -> list[tuple[str, str]]:
    """The accuracy on images of the classes there were before, without and with the change; none where answers stay."""
    old = result.old
    if old is None:
        return []
    what = f"{percent(old.before.mean)} before, {percent(old.after.mean)} after"
    return [("old classes", f"{what}; {_images(old.n)}, each left out once")]
