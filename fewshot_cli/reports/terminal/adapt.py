"""What `adapt` understood, what it did, and what accuracy to expect."""

from rich.console import RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, left_out, percent, size, skipped_files
from fewshot_cli.reports.terminal.label_sets import expected_of_each
from fewshot_cli.results import AdaptResult, ForetoldAccuracy, Pruning, RoundingCost


def adapted(result: AdaptResult) -> RenderableType:
    """The report of one adaptation, for people."""
    counts = [item.n for item in result.per_class.values()]
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    expected = result.expected_accuracy
    if expected.mean is None:
        accuracy = Text(f"not known: {expected.how}", style="yellow")
    else:
        how = f"\n{expected.how}, corrected for what they miss"
        accuracy = Text.assemble((expectation(expected), "bold green"), (how, "dim"))
    moved = (
        "a graft on its layers"
        if result.graft
        else "its weights stay as they are"
        if result.density == 0
        else f"{percent(result.density)} of its weights moved"
    )
    bank = [("bank", f"{result.bank.file}, {result.bank.digest[:12]}")] if result.bank else []
    seconds = result.seconds
    return facts(
        ("classes", classes(result.classes)),
        *([("labels", result.labels)] if result.labels else []),
        ("images", f"{result.images}, {spread} a class" if result.images else "none: the names say it all"),
        *skipped_files(result.skipped),
        *left_out(result.left_out),
        ("method", f"{_named(result)} on {result.backbone}; {moved}"),
        *bank,
        *_choice(result),
        ("expect", accuracy),
        *_with_more(result.expected_with_more),
        *expected_of_each(result),
        *_doubts(result),
        *pruned(result.pruning),
        ("wrote", f"{result.file}, {size(result.bytes)}, proved: read back, it gives the same answers"),
        *_rounded(result.values),
        (
            "took",
            f"{seconds['total']:.1f} s"
            + "".join(f", {name} {spent:.1f}" for name, spent in seconds.items() if name != "total"),
        ),
    )


def _with_more(foretold: ForetoldAccuracy | None) -> list[tuple[str, str]]:
    """The accuracy that more images would give."""
    if foretold is None:
        return []
    mean, low, high = (f"{100 * share:.0f}" for share in (foretold.mean, foretold.low, foretold.high))
    return [("with more", f"{foretold.more} more of each class: {mean} % ({low} to {high})")]


def _choice(result: AdaptResult) -> list[tuple[str, str]]:
    """From how many recipes this one was chosen, and whether training would pay; nothing where it was given."""
    if result.candidates is None:
        return []
    (taken,) = [candidate for candidate in result.candidates if candidate.chosen]
    return [("chosen", f"of {len(result.candidates)} recipes: {taken.why}. {result.advice or ''}")]


def _doubts(result: AdaptResult) -> list[tuple[str, Text]]:
    """How many labels are likely wrong, and where more is said of them; nothing where none is."""
    if not result.doubts:
        return []
    first = result.doubts[0]
    count = "1 label is" if len(result.doubts) == 1 else f"{len(result.doubts)} labels are"
    where = "" if result.folder is None else f"; `fewshot doctor {result.folder} --learn` says why"
    return [
        ("look at", Text(f"{count} likely wrong: {first.path} looks like '{first.probably}'{where}", style="yellow"))
    ]


def _rounded(values: RoundingCost) -> list[tuple[str, str]]:
    """What it costs to keep fewer digits; nothing where it moves no answer and is what is done for everybody."""
    if values.stored in ("float32", "float16") and values.top1_agreement == 1:
        return []
    alike = f"{values.stored}: {percent(values.top1_agreement)} of the answers are as before rounding"
    if values.accuracy is None or values.accuracy_before is None:
        return [("values", alike)]
    held = f"accuracy {percent(values.accuracy)}, {percent(values.accuracy_before)} before"
    return [("values", f"{alike}; {held}")]


def pruned(pruning: Pruning | None) -> list[tuple[str, str]]:
    """What it costs to let the bank move fewer weights; nothing where it moves all that it would."""
    if pruning is None:
        return []
    moved = f"{percent(pruning.density)} of the weights moved, {percent(pruning.density_before)} without pruning"
    if pruning.accuracy is None or pruning.accuracy_before is None:
        return [("pruning", moved)]
    return [("pruning", f"{moved}; accuracy {percent(pruning.accuracy)}, {percent(pruning.accuracy_before)} without")]


def _named(result: AdaptResult) -> str:
    """The method, with a head that took the place of the one trained along, and what is transductive marked."""
    name = f"{result.method}, then {result.head}" if result.head else result.method
    return f"{name} (transductive: answers about all pictures at once)" if result.transductive else name
