"""Every problem image of a folder, a list or a zip, and what to do."""

from collections import Counter
from pathlib import Path

from fewshot_cli import __version__
from fewshot_cli.images.checkup import Examined, Finding, checkup
from fewshot_cli.images.datasets import read_datasets
from fewshot_cli.jobs.progress import Progress

Report = dict[str, object]


def doctor(root: Path, progress: Progress) -> Report:
    """The findings, what would stop `adapt` first. Raises FewshotError where there are no classes."""
    folder = _examined(root)
    with progress.track("examining images") as advance:
        findings = checkup(folder, advance)
    return {
        "command": "doctor",
        "version": __version__,
        "folder": str(root),
        "classes": list(folder.classes),
        "images": len(folder.items),
        "left_out": [str(path) for path in folder.left_out],
        "counts": dict(Counter(finding.severity for finding in findings)),
        "findings": [_row(finding) for finding in findings],
    }


def _examined(root: Path) -> Examined:
    if not root.is_file():
        return Examined.of_folder(root)
    dataset, *others = read_datasets(root)
    assert not others, "a file is one data set"
    return Examined.of(dataset)


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
