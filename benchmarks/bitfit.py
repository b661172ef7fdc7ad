"""How quick `bitfit` is, and whether what makes it quicker costs accuracy.

    python benchmarks/bitfit.py speed                                          a step in each way, in turn
    python benchmarks/bitfit.py run --ways folded late_twenty -o bitfit.json   trains in each way on the same tasks
    python benchmarks/bitfit.py table bitfit.json                              differences in pairs

Tasks have 5 classes of 5 images of the sets in ../shared/data unless said otherwise; the truth is the accuracy on up
to 20 others of each class. Seconds are those of the processor, on one thread.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from choosing import CHOSE
from shared_sets import BACKBONE, SETS, SHARED

from fewshot_cli.engine.adaptation import Adapted, Run, Support, Watch, unwatched
from fewshot_cli.engine.device import keep_freed_memory
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.train import fine_tune
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.features import embed
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import FeatureCache

TURNS = 4
QUERIES = 20  # of a class, if there are as many
THIRTY = ("method.tuning.optim.lr=3e-3", "method.tuning.optim.steps=30")
TWENTY = ("method.tuning.optim.lr=5e-3", "method.tuning.optim.steps=20")
ALL, LATE = ("method.targets=bias$",), (r"method.targets=^(?!bn1\.|blocks\.[01]\.\d).*bias$",)
WAYS: Mapping[str, Sequence[str]] = {
    "plain": (*THIRTY, *ALL),  # as it was: batch norms are not folded
    "folded": (*THIRTY, *ALL),
    "late": (*THIRTY, *LATE),
    "twenty": (*TWENTY, *ALL),
    "late_twenty": (*TWENTY, *LATE),
}
"""Ways to train, as changes of the recipe; the first is what the others are compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--ways", nargs="+", choices=WAYS, default=["folded", "late_twenty"])
    run.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    run.add_argument("--way", type=int, default=5)
    run.add_argument("--shots", type=int, default=5)
    run.add_argument("--tasks", type=int, default=5, help="of each set")
    run.add_argument("--image-size", type=int)
    run.add_argument("-o", "--output", type=Path, required=True)
    commands.add_parser("speed").add_argument("--image-size", type=int)
    commands.add_parser("table").add_argument("files", nargs="+", type=Path)
    asked = parser.parse_args()
    if asked.command == "table":
        print(table([row for path in asked.files for row in json.loads(path.read_text())]))
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    backbone = load_backbone(BACKBONE, Source(offline=True), asked.image_size, torch.device("cpu"))
    if asked.command == "speed":
        print(speed(backbone))
        return
    rows: list[dict[str, Any]] = []
    for number in range(asked.tasks):
        for name in asked.sets:
            support, queries, truth = task(backbone, name, number, asked.way, asked.shots)
            rows += [
                {"set": name, "task": number} | measured(backbone, support, queries, truth, way) for way in asked.ways
            ]
            asked.output.write_text(json.dumps(rows, indent=0) + "\n")
            print(rows[-1], flush=True)


def task(
    backbone: Backbone, name: str, number: int, way: int, shots: int, most: int = QUERIES
) -> tuple[Support, torch.Tensor, torch.Tensor]:
    """The support set of a task, and pictures and labels of its queries, at most so many of a class."""
    folder = read_labelled(SHARED / "data" / SETS[name])
    rng = torch.Generator().manual_seed(1000 * number + sum(map(ord, name)))
    classes = [folder.classes[i] for i in torch.randperm(len(folder.classes), generator=rng)[:way].tolist()]
    known, asked = [], []
    for label, wanted in enumerate(classes):
        members = [item.stored for item in folder.items if item.label == wanted]
        order = torch.randperm(len(members), generator=rng).tolist()
        known += [(members[i], label) for i in order[:shots]]
        asked += [(members[i], label) for i in order[shots : shots + most]]
    seen = embed(backbone, [stored for stored, _ in known + asked], FeatureCache(), NoProgress(), decode=True)
    labels = torch.tensor([label for _, label in known + asked])
    pictures = seen.pictures[torch.arange(len(labels))]
    first = len(known)
    return Support(pictures[:first], labels[:first], seen.features[:first], way), pictures[first:], labels[first:]


def measured(
    backbone: Backbone, support: Support, queries: torch.Tensor, truth: torch.Tensor, way: str
) -> dict[str, Any]:
    """Accuracy and seconds of one way to train."""
    begin = time.process_time()
    adapted = trained(backbone, support, way)
    seconds = time.process_time() - begin
    logits = Model(backbone, adapted).logits(queries)
    accuracy = float((logits.argmax(1) == truth).double().mean())
    return {"way": way, "accuracy": accuracy, "seconds": seconds}


def trained(backbone: Backbone, support: Support, way: str, *changes: str, watch: Watch = unwatched) -> Adapted:
    """What training in this way learns."""
    fold = fine_tune.folded
    if way == "plain":
        fine_tune.folded = lambda backbone, weights: backbone
    try:
        learner = load_recipe("bitfit", (*WAYS[way], *changes)).learner
        return learner.adapt(backbone, support, Run(0, watch))
    finally:
        fine_tune.folded = fold


def speed(backbone: Backbone) -> str:
    """The median seconds of a step on 25 pictures of noise in each way, which take turns."""
    rng = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (25, 3, *backbone.preprocessing.size), dtype=torch.uint8, generator=rng)
    support = Support(pictures, torch.arange(25) % 5, torch.rand(25, backbone.dim, generator=rng), 5)
    steps: dict[str, list[float]] = {}
    for _ in range(TURNS):
        for way in ("plain", "folded", "late"):
            few = ("method.tuning.optim.steps=3", "method.tuning.optim.epochs=0")
            steps.setdefault(way, []).extend(of_steps(backbone, support, way, few))
    return "\n".join(f"{way}: {statistics.median(found):.2f} s" for way, found in steps.items())


def of_steps(backbone: Backbone, support: Support, way: str, changes: Sequence[str]) -> list[float]:
    """The seconds of each step but the first."""
    ticks: list[float] = []
    trained(backbone, support, way, *changes, watch=lambda *_: ticks.append(time.process_time()))
    return [later - sooner for sooner, later in pairwise(ticks)]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each way against the first in pairs, on sets that chose and on others."""
    ways = list(dict.fromkeys(row["way"] for row in rows))
    groups = {
        "sets that chose": [row for row in rows if row["set"] in CHOSE],
        "others": [row for row in rows if row["set"] not in CHOSE],
    }
    lines = [
        f"| way | sets | tasks | accuracy | difference to {ways[0]} | seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for way in ways:
        lines += [
            line(way, title, group, ways[0]) for title, group in groups.items() if any(r["way"] == way for r in group)
        ]
    return "\n".join(lines)


def line(way: str, title: str, rows: Sequence[Mapping[str, Any]], first: str) -> str:
    mine, others = ({(r["set"], r["task"]): r for r in rows if r["way"] == one} for one in (way, first))
    differences = [100 * (mine[key]["accuracy"] - others[key]["accuracy"]) for key in mine]
    accuracy = 100 * sum(row["accuracy"] for row in mine.values()) / len(mine)
    seconds = sum(row["seconds"] for row in mine.values()) / len(mine)
    difference = "" if way == first else f"{mean_and_error(differences)}"
    return f"| {way} | {title} | {len(mine)} | {accuracy:.1f} | {difference} | {seconds:.1f} |"


def mean_and_error(values: Sequence[float]) -> str:
    """The mean with half of its 95 % interval."""
    mean = statistics.mean(values)
    error = 1.96 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{mean:+.1f} ± {error:.1f}"


if __name__ == "__main__":
    main()
