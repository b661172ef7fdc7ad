"""Every starting method on real folders, as a user would: `adapt` on a few images of each class, `eval` on the rest.

    python benchmarks/methods.py                          all recipes on the four sets, 5 images a class
    python benchmarks/methods.py --recipes ridge lda --image-size 128 --seeds 3

Prints a Markdown table of accuracies, and writes every run to --out as JSON. Needs ../shared/data.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from fewshot_cli.engine.device import choose_device
from fewshot_cli.images.sources.class_folders import read_folder
from fewshot_cli.jobs.classify.adapt import AdaptSettings, adapt
from fewshot_cli.jobs.classify.evaluate import evaluate
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.meta_recipes import recipe_names
from fewshot_cli.methods.base import Learner
from fewshot_cli.recipes import Recipe, load_recipe
from fewshot_cli.storage.feature_cache import FeatureCache

SHARED = Path(os.environ.get("FEWSHOT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
NOT_HERE = ("attention", "pmf")  # the default backbone has no attention; pmf takes an hour for 99 classes
SETS = ("pacs/photo", "pacs/sketch", "dtd10", "caltech101")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() and options.resume else []
    done = {(row["recipe"], row["set"], row["seed"]) for row in rows}
    for seed in range(options.seeds):
        for name in options.data:
            with tempfile.TemporaryDirectory() as folder:
                support, query = split(SHARED / "data" / name, Path(folder), options.shots, seed)
                for recipe in options.recipes:
                    if (recipe, name, seed) not in done:
                        rows.append(
                            {"recipe": recipe, "set": name, "seed": seed}
                            | measure(recipe, support, query, Path(folder), options)
                        )
                        options.out.parent.mkdir(parents=True, exist_ok=True)
                        options.out.write_text(json.dumps(rows, indent=1) + "\n")
                        print(json.dumps(rows[-1]), flush=True)
    print(table(rows, options.data))


def measure(name: str, support: Path, query: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What `fewshot adapt` and `fewshot eval` report for one recipe."""
    file = folder / f"{name}.fewshot"
    where, device = Source(options.weights, offline=True), choose_device(options.device)
    context = JobContext(where, device, FeatureCache(), NoProgress())
    recipe = load_recipe(name, options.set, backbone=options.backbone, image_size=options.image_size)
    start = time.perf_counter()
    learned = adapt(support, file, AdaptSettings(recipe, folds=0 if trains(recipe.learner) else 5), context).report()
    seconds = time.perf_counter() - start
    found = evaluate(file, query, context).report()
    file.unlink()
    return {
        "backbone": learned["backbone"],
        "image_size": options.image_size,
        "shots": options.shots,
        "images": learned["images"],
        "queries": found["n"],
        "accuracy": found["accuracy"],
        "low": found["low"],
        "high": found["high"],
        "ece": found["ece"],
        "expected": learned["expected_accuracy"],
        "bytes": learned["bytes"],
        "density": learned["density"],
        "adapt_seconds": round(seconds, 2),
        "device": str(device),
    }


def trains(learner: Learner) -> bool:
    return learner.head_only is None


def split(root: Path, folder: Path, shots: int, seed: int) -> tuple[Path, Path]:
    """Two folders of links: `shots` images of each class, drawn from the seed, and the rest."""
    members: dict[str, list[Path]] = defaultdict(list)
    for item in read_folder(root).items:
        members[item.label].append(item.path)
    for label, paths in members.items():
        chosen = set(random.Random(f"{seed} {label}").sample(paths, shots))
        for path in paths:
            link = folder / ("support" if path in chosen else "query") / label / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder / "support", folder / "query"


def table(rows: list[dict[str, Any]], sets: list[str]) -> str:
    """Mean accuracy over the seeds in percent, by recipe and set, best mean first, with size and time."""
    by_recipe: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_recipe[row["recipe"]][row["set"]].append(row)
    lines = []
    for recipe, found in by_recipe.items():
        if all(name in found for name in sets):
            means = [statistics.mean(row["accuracy"] for row in found[name]) for name in sets]
            every = [row for name in sets for row in found[name]]
            size = statistics.median(row["bytes"] for row in every) / 1000
            seconds = statistics.median(row["adapt_seconds"] for row in every)
            cells = [f"{100 * mean:.1f}" for mean in means] + [f"**{100 * statistics.mean(means):.1f}**"]
            cells += [f"{size:,.0f}", f"{seconds:.0f}"]
            lines.append((statistics.mean(means), f"| `{recipe}` | {' | '.join(cells)} |"))
    head = f"| recipe | {' | '.join(sets)} | mean | KB | adapt, s |\n| --- |" + " --- |" * (len(sets) + 3)
    return "\n".join([head] + [line for _, line in sorted(lines, reverse=True)])


def is_for_the_default_backbone(name: str) -> bool:
    return name not in NOT_HERE and not load_recipe(name).learner.needs_text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes", nargs="+", default=[name for name in recipe_names(Recipe) if is_for_the_default_backbone(name)]
    )
    parser.add_argument("--data", nargs="+", default=list(SETS))
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("methods.json"))
    parser.add_argument("--resume", action="store_true", help="keep the runs in --out and only do the others")
    return parser.parse_args()


if __name__ == "__main__":
    main()
