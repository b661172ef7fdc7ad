"""What `doctor` found, for people."""

from rich.console import Group, RenderableType
from rich.text import Text

from fewshot_cli.reports.layout import passed_over
from fewshot_cli.results import DoctorResult, Problem, Suspect

LEARNED = {
    "label": "labels that are likely wrong",
    "classes": "classes that can't be told apart",
    "hurts": "images that hurt",
    "burst": "photos of one burst",
}
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
    if result.labels:
        lines.append(Text(f"Labels: {result.labels}.", style="dim"))
    if result.left_out:
        lines.append(Text(f"Passed over: {passed_over(result.left_out)}.", style="dim"))
    if not result.findings and not result.learned:
        return Group(*lines, Text("Nothing is wrong.", style="bold green"))
    for severity, style in STYLES.items():
        found = [finding for finding in result.findings if finding.severity == severity]
        if found:
            lines += [Text(), Text(f"{severity} ({len(found)}): {MEANING[severity]}", style=style)]
            lines += [_line(finding) for finding in found]
    return Group(*lines, *_learned(result))


def _learned(result: DoctorResult) -> list[Text]:
    """What held-out answers say, by kind."""
    if result.not_learned:
        return [Text(), Text(f"not learned from: {result.not_learned}", style="yellow")]
    lines = []
    for kind, meaning in LEARNED.items():
        found = [suspect for suspect in result.learned or () if suspect.kind == kind]
        if found:
            lines += [Text(), Text(f"{meaning} ({len(found)})", style="yellow")]
            lines += [_suspect(suspect) for suspect in found]
    if result.learned == ():
        lines += [Text(), Text("What is learned from the images says nothing against them.", style="green")]
    return lines


def _suspect(suspect: Suspect) -> Text:
    name = [("  ", ""), (suspect.paths[0], "bold"), ("\n      ", "")] if suspect.paths else [("  ", "")]
    like = "; ".join(f"{each.path} ({each.label}, {each.cosine:.2f})" for each in suspect.neighbours)
    parts = [*name, (suspect.problem, ""), (f"\n      {suspect.remedy}", "dim")]
    return Text.assemble(*parts, (f"\n      looks like: {like}" if like else "", "dim"))


def _line(finding: Problem) -> Text:
    return Text.assemble(
        "  ", (finding.path, "bold"), f"\n      {finding.problem}", (f"\n      {finding.remedy}", "dim")
    )
