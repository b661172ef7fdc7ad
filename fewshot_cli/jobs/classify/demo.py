"""The whole way on drawn pictures: a folder, a classifier, a check on pictures it has not seen, predictions."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from fewshot_cli import __version__
from fewshot_cli.errors import FewshotError
from fewshot_cli.images.drawing import CLASSES, write_folder
from fewshot_cli.jobs.classify.adapt import adapt
from fewshot_cli.jobs.classify.evaluate import evaluate
from fewshot_cli.jobs.classify.predict import predict
from fewshot_cli.jobs.models import Source
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.jobs.run_record import Report
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import NoCache

RECIPE = "ridge"  # a few seconds on any machine, with an exact estimate
SHOTS = 5
QUERIES = 10


def demo(output: Path | None, device: torch.device, seed: int, progress: Progress) -> Report:
    """The reports of `adapt`, `eval` and `predict` on pictures of a dozen things, drawn from the seed.

    Everything goes to `output`, or to a temporary folder that is gone afterwards.
    """
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FewshotError(f"{output} is there already and not an empty folder.", "Give -o a new folder.")
    source = Source(offline=True)
    with nullcontext(str(output)) if output else tempfile.TemporaryDirectory() as name:
        root = Path(name)
        known, unseen, file = root / "known", root / "unseen", root / "demo.fewshot"
        write_folder(known, CLASSES, SHOTS, seed)
        write_folder(unseen, CLASSES, QUERIES, seed + 1)
        recipe = load_recipe(RECIPE)
        learned = adapt(known, file, recipe, source, device, seed, 0, NoCache(), progress)
        checked = evaluate(file, unseen, source, device, NoCache(), progress)
        some = [next(iter(sorted((unseen / label).iterdir()))) for label in CLASSES[:4]]
        answered = predict([file], some, source, device, NoCache(), progress)
    learned["file"] = file.name if output is None else str(file)
    for row in answered["predictions"]:
        row["path"] = Path(row["path"]).relative_to(root).as_posix() if output is None else row["path"]
    return {
        "command": "demo",
        "version": __version__,
        "folder": str(output) if output else None,
        "recipe": RECIPE,
        "adapt": learned,
        "eval": checked,
        "predict": answered,
    }
