"""Every problem image of a folder, a zip or a list, and what to do."""

from collections import Counter
from pathlib import Path

from fewshot_cli import __version__
from fewshot_cli.images.quality.checks import Finding, checkup
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.progress import Progress

Report = dict[str, object]


def doctor(root: Path, progress: Progress) -> Report:
    """The findings in a folder, a zip or a list, what would stop `adapt` first.

    Raises FewshotError where it holds no classes, or what `adapt` refuses as a whole.
    """
    folder = read_labelled(root, allow_empty=True)
    with progress.track("examining images") as advance:
        findings = checkup(folder, advance)
    return {
        "command": "doctor",
        "version": __version__,
        "folder": str(root),
        "classes": list(folder.classes),
        "images": len(folder.items),
        "left_out": dict(folder.left_out),
        "counts": dict(Counter(finding.severity for finding in findings)),
        "findings": [_row(finding) for finding in findings],
    }


def _row(finding: Finding) -> dict[str, str | None]:
    return {
        "path": str(finding.path),
        "class": finding.label,
        "kind": finding.kind,
        "severity": finding.severity,
        "problem": finding.problem,
        "remedy": finding.remedy,
        "other": str(finding.other) if finding.other else None,
    }
