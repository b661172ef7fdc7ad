"""What `doctor` found, for people."""

from rich.console import Group, RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import passed_over
from fewshot_cli.results import DoctorResult, Problem

STYLES = {"error": "bold red", "skipped": "yellow", "warning": "yellow", "note": "dim"}
MEANING = {
    "error": "adapt stops here",
    "skipped": "adapt leaves these out",
    "warning": "adapt uses these, but look at them",
    "note": "nothing to do",
}


def examined(result: DoctorResult) -> RenderableType:
    """The findings under how much they matter, each with its remedy."""
    checked = Text(f"{result.images} files in {len(result.classes)} classes", style="dim")
    lines: list[Text] = [checked]
    if result.left_out:
        lines.append(Text(f"Passed over: {passed_over(result.left_out)}.", style="dim"))
    if not result.findings:
        return Group(*lines, Text("Nothing is wrong.", style="bold green"))
    for severity, style in STYLES.items():
        found = [finding for finding in result.findings if finding.severity == severity]
        if found:
            lines += [Text(), Text(f"{severity} ({len(found)}): {MEANING[severity]}", style=style)]
            lines += [_line(finding) for finding in found]
    return Group(*lines)


def _line(finding: Problem) -> Text:
    return Text.assemble(
        "  ", (finding.path, "bold"), f"\n      {finding.problem}", (f"\n      {finding.remedy}", "dim")
    )
