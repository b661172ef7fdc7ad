"""All steps on drawn pictures: a folder, a classifier, its evaluation on new pictures, predictions."""

import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import CLASSES, write_folder
from fewshot_cli.jobs.classify.adapt import AdaptSettings, adapt
from fewshot_cli.jobs.classify.evaluate import evaluate
from fewshot_cli.jobs.classify.predict import predict
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.results import DemoResult
from fewshot_cli.storage.feature_cache import NoCache

RECIPE = "ridge"  # a few seconds on any machine, with an exact estimate
SHOTS = 5
QUERIES = 10


def demo(output: Path | None, device: torch.device, seed: int, progress: Progress) -> DemoResult:
    """The results of `adapt`, `eval` and `predict` on pictures of a dozen things, drawn from the seed.

    Everything goes to `output`, or to a temporary folder that is gone afterwards.
    """
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FewshotError(f"{output} is there already and not an empty folder.", "Give -o a new folder.")
    context = JobContext(Source(offline=True), device, NoCache(), progress)
    with nullcontext(str(output)) if output else tempfile.TemporaryDirectory() as name:
        root = Path(name)
        known, unseen, file = root / "known", root / "unseen", root / "demo.fewshot"
        write_folder(known, CLASSES, SHOTS, seed)
        write_folder(unseen, CLASSES, QUERIES, seed + 1)
        learned = adapt(known, file, AdaptSettings(load_recipe(RECIPE), seed, folds=0), context)
        checked = evaluate(file, unseen, context)
        some = [next(iter(sorted((unseen / label).iterdir()))) for label in CLASSES[:4]]
        answered = predict([file], some, context)
    if output is None:
        learned = replace(learned, file=file.name)
        rows = answered.predictions or ()
        within = tuple(replace(row, path=Path(row.path).relative_to(root).as_posix()) for row in rows)
        answered = replace(answered, predictions=within)
    return DemoResult(
        folder=str(output) if output else None, recipe=RECIPE, adapt=learned, eval=checked, predict=answered
    )
