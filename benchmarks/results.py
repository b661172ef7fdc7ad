"""Every method on every set of ../shared/data, and docs/results.md.

    python benchmarks/results.py run [NAME...]     evaluates; goes on where it stopped; results in benchmarks/results/
    python benchmarks/results.py reference         compares prototypes with the table in ../shared/data/README.md
    python benchmarks/results.py table             writes docs/results.md from what the two left

`run` with a larger --trained adds episodes of the methods that train to those that are there.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from choosing import section as choosing_section
from long_tables import section as long_section
from meta_tables import section
from moa import section as moa_section
from tiny_clip_table import section as tiny_clip_section

from fewshot_cli.engine.trust.significance import mean_interval
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs.benchmark.aggregate import summarised
from fewshot_cli.jobs.benchmark.episode_runner import EpisodeSource, answer_block
from fewshot_cli.jobs.benchmark.protocols import pool_of, protocols
from fewshot_cli.jobs.data import load_data
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.reports.documents.results_table import markdown
from fewshot_cli.results import ComparisonResult, read_comparison
from fewshot_cli.storage.feature_cache import FeatureCache

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("FEWSHOT_SHARED", ROOT.parent / "shared"))
RESULTS = ROOT / "benchmarks" / "results"
SETS = ("caltech101", "cifar10", "dtd10", "omniglot/omniglot_background_small.zip", "pacs")
HEADS = ("protonet", "protonet-euclidean", "ridge", "logistic", "lda")
TRAINED = ("bitfit", "bitfit-ridge", "norms", "last-block", "finetune", "lora", "saft", "shira")
BACKBONES = {
    "lite0-128": ("tf_efficientnet_lite0", 128, None),
    "vit-tiny-112": ("vit_tiny_patch16_224", 112, "vit_tiny_patch16_224.fp16.safetensors"),
}
ONLY_VIT = ("attention",)


def main() -> None:
    options = parse()
    match options.what:
        case "run":
            for name, words in commands(options).items():
                if not options.names or name in options.names:
                    print(shlex.join(words), flush=True)
                    subprocess.run([sys.executable, "-m", "fewshot_cli", *words[1:]], check=True, cwd=ROOT)
        case "reference":
            (RESULTS / "reference.json").write_text(json.dumps(against_reference(), indent=1) + "\n")
        case "table":
            (ROOT / "docs" / "results.md").write_text(page(), encoding="utf-8")


def commands(options: argparse.Namespace) -> dict[str, list[str]]:
    """By name, the `fewshot eval` that makes each run file; heads first, since they are quick."""
    asked = {}
    for group, episodes in (("heads", 600), ("trained", options.trained)):
        for backbone in BACKBONES:
            name = f"{backbone}-{group}"
            asked[name] = command(name, options.recipes or recipes_of(name), episodes)
    return asked


def recipes_of(name: str) -> tuple[str, ...]:
    if name.endswith("heads"):
        return HEADS
    return ("ridge", *TRAINED, *(ONLY_VIT if name.startswith("vit") else ()))


def command(name: str, recipes: Iterable[str], episodes: int) -> list[str]:
    """The `fewshot eval` that makes the run file of this name."""
    model, size, weights = BACKBONES[name.rpartition("-")[0]]
    return [
        *("fewshot", "eval", *recipes, "--data", *(f"../shared/data/{name}" for name in SETS)),
        *("--shots", "1,5", "--episodes", str(episodes), "--backbone", model, "--image-size", str(size)),
        *(("--weights", f"../shared/weights/{weights}") if weights else ()),
        *("-o", f"benchmarks/results/{name}.run.json"),
    ]


def against_reference() -> list[dict[str, Any]]:
    """Cosine prototypes beside the table's, under timm's evaluation transform and under one without its crop.

    300 episodes of 10 queries, as there. The table took 40 classes of caltech101 and omniglot, at random, so that
    these two can't be compared.
    """
    lines = re.findall(r"^\| (\S+) \| (.+) \|$", (SHARED / "data" / "README.md").read_text(), re.MULTILINE)
    table = {name: [re.findall(r"[\d.]+", cell) for cell in cells.split("|")] for name, cells in lines if "±" in cells}
    method = load_recipe("protonet").method
    rows = []
    for column, backbone in ((0, "vit-tiny-112"), (2, "lite0-128")):
        model, size, weights = BACKBONES[backbone]
        source = Source(SHARED / "weights" / weights if weights else None, offline=True)
        ours = load_backbone(model, source, size, torch.device("cpu"))
        whole = replace(ours, preprocessing=replace(ours.preprocessing, crop_fraction=1.0))
        for name, cells in table.items():
            for number, shots in enumerate((1, 5)):
                mean, half = cells[column][2 * number : 2 * number + 2]
                row = {
                    "set": name,
                    "backbone": backbone,
                    "shots": shots,
                    "table": float(mean),
                    "table_ci95": float(half),
                }
                for how, backbone_ in (("cropped", ours), ("whole", whole)):
                    data = load_data(
                        read_datasets(SHARED / "data" / name)[0], backbone_, FeatureCache(), False, NoProgress()
                    )
                    (protocol,) = protocols({"name": "fixed", "shots": shots, "queries": 10})
                    source = EpisodeSource(
                        pool_of(data.dataset, data.labels), protocol, (name,), backbone_, data.features, data.images, ""
                    )
                    accuracies = [
                        a for start in range(0, 300, 50) for a in answer_block(method, source, 0, start)[0]["accuracy"]
                    ]
                    found = mean_interval(accuracies)
                    row |= {how: round(100 * found.mean, 1), f"{how}_ci95": round(100 * (found.ci95 or 0), 1)}
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def page() -> str:
    """docs/results.md."""
    runs = {
        path.name.removesuffix(".run.json"): json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.run.json"))
    }
    parts = [OPENING]
    for name, title in TITLES.items():
        if name in runs:
            run = runs[name]
            made_by = shlex.join(command(name, run["recipes"], run["episodes"]))
            missing = [recipe for recipe in recipes_of(name) if recipe not in run["recipes"]]
            rest = f"\nNot run yet: {', '.join(missing)}.\n" if missing else ""
            parts.append(f"## {title}\n\n```bash\n{made_by}\n```\n{rest}")
            parts += [
                f"### {shots} image{'s' * (shots > 1)} of each class\n\n{markdown(at(run, shots))}" for shots in (1, 5)
            ]
    sections = (choosing_section(), section(), long_section(), moa_section(), tiny_clip_section())
    parts += [found for found in sections if found]
    reference = json.loads((RESULTS / "reference.json").read_text())
    parts.append(REFERENCE + reference_table(reference))
    return "\n".join(parts)


def at(run: dict[str, Any], shots: int) -> ComparisonResult:
    """The run with the rows of so many shots only, named by their data sets."""
    result = read_comparison(run)
    some = [row for row in result.rows if row.shots == shots]
    rows = tuple(replace(row, name=row.data) for row in some)
    results = {name: {row.data: found[row.name] for row in some} for name, found in result.results.items()}
    summary = summarised(results, rows)
    protocol = {**result.protocol, "shots": shots}
    return replace(result, rows=rows, results=results, protocol=protocol, methods=summary.methods, pairs=summary.pairs)


def reference_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| set | backbone | shots | table | ours, whole picture | ours, timm's crop |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    for row in rows:
        cells = [f"{row[key]:.1f} ± {row[f'{key}_ci95']:.1f}" for key in ("table", "whole", "cropped")]
        lines.append(f"| {row['set']} | {row['backbone']} | {row['shots']} | {' | '.join(cells)} |")
    agree = sum(abs(row["table"] - row["whole"]) <= np.hypot(row["table_ci95"], row["whole_ci95"]) for row in rows)
    return (
        "\n".join([*lines, "", f"{agree} of {len(rows)} agree within the interval of a difference, of other episodes."])
        + "\n"
    )


OPENING = """# Results

Every method that is there, on every set of `../shared/data` (Caltech-101, CIFAR-10, DTD, Omniglot, PACS, small
samples of each), 5-way, 15 queries a class. `python benchmarks/results.py table` wrote this page from the run files
in `benchmarks/results/`, which hold every episode's result; the command above each table made its run file, and
`fewshot eval --check FILE` repeats it. All recipes see the same episodes, and differences are tested in pairs. No
hyper-parameter was chosen on these episodes; learning rates were chosen on art_painting, cartoon, cifar10 and
omniglot (see LOG.md), so that these four flatter the methods that train. Both backbones were pre-trained on
ImageNet's labels, which name some of the classes of caltech101, photo and cifar10.

Heads on frozen features are compared over 600 episodes. Methods that train take seconds an episode on a CPU, and are
compared over few: there a cell says little, as its interval shows, and the mean over all sets is what to read.
`ridge` stands in both tables; in the second it sees the episodes that the others see.
"""

TITLES = {
    "lite0-128-heads": "EfficientNet-Lite0 at 128 px: heads",
    "vit-tiny-112-heads": "ViT-Ti/16 at 112 px: heads",
    "lite0-128-trained": "EfficientNet-Lite0 at 128 px: methods that train",
    "vit-tiny-112-trained": "ViT-Ti/16 at 112 px: methods that train",
}

REFERENCE = """## Against independent numbers

The table in `../shared/data/README.md` was made by a separate script: cosine prototypes, 10 queries, 300 episodes.
That script shows the whole picture to the backbone, where timm's evaluation transform, which fewshot follows, crops
its middle; for small pictures the crop costs up to three points (sketch). Made by `python benchmarks/results.py
reference`.

"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "reference", "table"))
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TITLES)}; all if none is given")
    parser.add_argument("--recipes", nargs="+", help="in place of those of the run")
    parser.add_argument("--trained", type=int, default=3, help="episodes of methods that train")
    return parser.parse_args()


if __name__ == "__main__":
    main()
