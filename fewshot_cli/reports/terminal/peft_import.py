"""What `import` made of an adapter, and how it was proved."""

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import classes, expectation, facts, percent, size
from fewshot_cli.results import ExpectedAccuracy


def imported(report: dict[str, Any]) -> RenderableType:
    """The report of one import, for people."""
    expected = report["expected_accuracy"]
    restored = ", as it was before the export" if report["restored"] else ""
    return facts(
        ("read", f"{report['from']}, a {report['kind']} adapter of {report['backbone']}"),
        ("wrote", f"{report['file']}, {size(report['bytes'])}, {report['values']['stored']}{restored}"),
        ("classes", classes(report["classes"])),
        ("changes", f"{percent(report['density'])} of the backbone's weights"),
        ("proved", _proof(report)),
        (
            "expect",
            expectation(ExpectedAccuracy(**expected)),
        ),
    )


def _proof(report: dict[str, Any]) -> str | Text:
    if not report["proved"]:
        return Text("not proved, since PEFT is not installed: pip install 'fewshot-cli[peft]'", style="yellow")
    return (
        f"on {report['images']} images: logits differ from those in PEFT {report['peft']} by at most "
        f"{report['max_abs_diff']:.2g}, {percent(report['top1_agreement'])} of the answers agree"
    )
