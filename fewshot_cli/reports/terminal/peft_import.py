"""What `import` made of an adapter, and how it was proved."""

from rich.console import RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, percent, size
from fewshot_cli.results import ImportResult


def imported(result: ImportResult) -> RenderableType:
    """The result of one import, for people."""
    restored = ", as it was before the export" if result.restored else ""
    return facts(
        ("read", f"{result.source}, a {result.kind} adapter of {result.backbone}"),
        ("wrote", f"{result.file}, {size(result.bytes)}, {result.values.stored}{restored}"),
        ("classes", classes(result.classes)),
        ("changes", f"{percent(result.density)} of the backbone's weights"),
        ("proved", _proof(result)),
        ("expect", expectation(result.expected_accuracy)),
    )


def _proof(result: ImportResult) -> str | Text:
    if not result.proved:
        return Text("not proved, since PEFT is not installed: pip install 'fewshot-cli[peft]'", style="yellow")
    return (
        f"on {result.images} images: logits differ from those in PEFT {result.peft} by at most "
        f"{result.max_abs_diff:.2g}, {percent(result.top1_agreement)} of the answers agree"
    )
