"""What learning from a folder's images says of their labels, besides what ails the files."""

from dataclasses import replace
from pathlib import Path

from fewshot_cli.images.sources.label_sets import label_sets
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.classify.doctor import doctor
from fewshot_cli.jobs.classify.support_set import support_set
from fewshot_cli.jobs.classify.suspects import suspects
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.initialisation import Starts
from fewshot_cli.recipes import Recipe
from fewshot_cli.results import DoctorResult


def learned_doctor(root: Path, recipe: Recipe, context: JobContext) -> DoctorResult:
    """What `doctor` finds, and what held-out answers on the features of the recipe's backbone say against images.

    Where something stops `adapt`, nothing can be learned, and the result says so.
    """
    found = doctor(root, context.progress)
    if any(finding.severity == "error" for finding in found.findings):
        return replace(found, not_learned="What stops adapt has to be mended first.")
    labelled = read_labelled(root, several=True)
    if label_sets(labelled):
        return replace(found, not_learned="Its images have several labels, and each is judged as if it had one.")
    start = Starts(context.source, context.device).of(recipe)
    known = support_set(labelled, start.backbone, context, decode=False)
    return replace(found, learned=suspects(known))
