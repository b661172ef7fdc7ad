"""Every problem image of a folder, a zip or a list, and what to do."""

from collections import Counter
from pathlib import Path

from fewshot_cli.images.quality.checks import Finding, checkup
from fewshot_cli.images.sources.label_sets import reading_of
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.results import DoctorResult, Problem


def doctor(root: Path, progress: Progress) -> DoctorResult:
    """The findings in a folder, a zip or a list, what would stop `adapt` first.

    Raises FewshotError where it holds no classes, or what `adapt` refuses as a whole.
    """
    folder = read_labelled(root, allow_empty=True, several=True)
    with progress.track("examining images") as advance:
        findings = checkup(folder, advance)
    return DoctorResult(
        folder=str(root),
        classes=folder.classes,
        images=len(folder.items),
        left_out=dict(folder.left_out),
        counts=dict(Counter(finding.severity for finding in findings)),
        findings=tuple(map(_problem, findings)),
        labels=reading_of(folder),
    )


def _problem(finding: Finding) -> Problem:
    return Problem(
        path=str(finding.path),
        label=finding.label,
        kind=finding.kind,
        severity=finding.severity,
        problem=finding.problem,
        remedy=finding.remedy,
        other=str(finding.other) if finding.other else None,
    )
