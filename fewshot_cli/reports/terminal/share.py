"""What was pushed to the hub or pulled from it, for people."""

import shlex

from rich.console import RenderableType

from fewshot_cli.reports.layout import classes, expectation, facts, size
from fewshot_cli.reports.licences import is_non_commercial, is_timms_word
from fewshot_cli.results import PullResult, PushResult


def pushed(result: PushResult) -> RenderableType:
    """What lies where, and what others type."""
    card = f"stays as it is, since {result.card_kept}" if result.card_kept else "written"
    who = "private" if result.private else "public"
    return facts(
        ("pushed", f"{result.file}, {size(result.bytes)}, {who}" + ", in place of another" * result.replaced),
        ("to", result.url),
        ("commit", result.commit),
        ("README.md", card),
        *_caution(result.licence),
        ("others type", result.pull),
    )


def pulled(result: PullResult) -> RenderableType:
    """What it is, and what to do with it."""
    expected = result.expected_accuracy
    file = shlex.quote(result.file)
    is_bank = result.kind == "bank"
    return facts(
        ("pulled", f"{result.source} of {result.url}, at {str(result.commit)[:12]}"),
        ("wrote", f"{result.file}, {size(result.bytes)}; its hash is right"),
        ("is", f"a {'bank' if is_bank else 'classifier'} by {result.method} on {result.backbone}"),
        *([("classes", classes(result.classes))] if result.classes is not None else []),
        *([("expect", expectation(expected))] if expected and expected.mean is not None else []),
        *_caution(result.licence),
        ("base", f"{result.backbone} with fingerprint {result.fingerprint[:12]}; other weights are refused"),
        (
            "next",
            f"fewshot adapt FOLDER --bank {file} -o my.fewshot" if is_bank else f"fewshot predict {file} PHOTOS",
        ),
        *([("", "with --weights FILE, the file of that base")] if not is_timms_word(result.licence) else []),
    )


def _caution(licence: str) -> list[tuple[str, str]]:
    """The licence of the base, and what to mind about it."""
    if licence == "unknown":
        return [("licence", "of the base not known: its weights came from a file")]
    return [("licence", f"of the base: {licence}" + ", no commercial use" * is_non_commercial(licence))]
