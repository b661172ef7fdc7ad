"""Methods that read the names of classes, compared on two tiny towers, on drawings like those learned from and others.

    python benchmarks/tiny_clip.py pretrain    trains the towers on drawings and their names: two minutes of a core
    python benchmarks/tiny_clip.py rates       tries learning rates on drawings that the comparison does not use
    python benchmarks/tiny_clip.py run         runs every method at 1 to 16 shots with three seeds, on four test sets
    python benchmarks/tiny_clip.py table       writes docs/results.md with what they found

`rates` and `run` can be interrupted, and go on where they stopped. The towers are an ordinary model of open_clip:
`fewshot eval zero-shot --data drawn --way all --shots 1 --queries 10 --backbone clip:tiny --weights FILE` takes them.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tiny_towers import LEARNED, drawings, kinds, negatives, pretrained, save
from torch import Tensor

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.train.text import with_texts
from fewshot_cli.images.drawing import CLASSES
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.atomic import write_atomically

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE / "towers" / "tiny.safetensors"
RECORD = HERE / "results" / "tiny-clip.json"
BACKBONE = "clip:tiny"
SHOTS = (1, 2, 4, 8, 16)
SEEDS = 3
TEST_SEED, RATE_SEED, APART = 100_000, 500_000, 1_000
"""Where the drawings' seeds begin that answers are asked about, and those that learning rates are chosen by. Drawings
to learn from begin 50,000 below. Each seed of the comparison begins `APART` after the one before."""
ASKED = 50
"""Test drawings of each class."""
PRETRAINING = {"steps": 1100, "of_first": 600}
STEPS = ("method.tuning.optim.epochs=0", "method.tuning.optim.steps=60", "method.tuning.augment=0")
"""Of all that train the towers: ten passes over 16 shots, as recipes have it, and as many steps for fewer. Pictures are
plain: augmented ones are further from what such towers know than the task is."""


@dataclass(frozen=True)
class Way:
    """A recipe with changes. `rate` is the setting of its learning rate, and `rates` are those that are tried."""

    recipe: str
    changes: tuple[str, ...] = ()
    rate: str = "method.tuning.optim.lr"
    rates: tuple[float, ...] = ()

    def asked(self, rate: float | None) -> tuple[str, ...]:
        return self.changes if rate is None else (*self.changes, f"{self.rate}={rate}")


WAYS = {
    "zero-shot": Way("zero-shot"),
    "linear probe": Way("logistic"),
    "GDA": Way("gda"),
    "LP++": Way("lp++"),
    "Tip-Adapter-F": Way("tip-adapter-f"),
    "CoOp": Way("coop", (), "method.lr", (2e-3, 2e-2)),
    "CLIP-LoRA": Way("clip-lora", ("method.tuning.optim.steps_per_shot=0", *STEPS), rates=(6e-4, 2e-3, 6e-3)),
    "SAFT": Way("saft-clip", STEPS, rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    "fine-tuning": Way("finetune-clip", STEPS, rates=(3e-5, 1e-4, 3e-4, 1e-3)),
}


@dataclass(frozen=True)
class Task:
    """A way, its learning rate, and what it learns from; `first` is the seed of the first test drawing."""

    way: str
    rate: float | None
    shots: int
    seed: int
    first: int

    def found(self, rows: Iterable[dict[str, Any]]) -> bool:
        return any(self == Task(**{key: row[key] for key in vars(self)}) for row in rows)


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    match options.what:
        case "pretrain":
            save(pretrained(**PRETRAINING), options.weights)
            found = answered(read_towers(options.weights), Task("zero-shot", None, 1, 0, TEST_SEED))
            print(", ".join(f"{test}: {100 * share:.1f} %" for test, share in found.items()))
        case "rates":
            fill(read_towers(options.weights), options.record, "rates", rate_tasks())
        case "run":
            tasks = compared_tasks(read_record(options.record)["rates"])
            fill(read_towers(options.weights), options.record, "runs", tasks)
        case "table":
            import results

            (results.ROOT / "docs" / "results.md").write_text(results.page(), encoding="utf-8")


def read_towers(path: Path) -> TwoTowers:
    """The towers as `--backbone clip:tiny --weights FILE` reads them."""
    if not path.is_file():
        sys.exit(f"{path} is not there. Train the towers first: python benchmarks/tiny_clip.py pretrain")
    towers = load_backbone(BACKBONE, Source(path, offline=True), None, torch.device("cpu"))
    assert isinstance(towers, TwoTowers)
    return towers


# --- one task ------------------------------------------------------------------------------------------------------


def answered(towers: TwoTowers, task: Task) -> dict[str, float]:
    """By test set the share of right answers of what was learned.

    More shots of the same seed add to those of fewer; each seed has drawings of its own, to learn from and to answer.
    """
    way = WAYS[task.way]
    learner = load_recipe(way.recipe, way.asked(task.rate), backbone=BACKBONE).learner
    first = task.first + task.seed * APART
    adapted = learner.adapt(towers, support_of(towers, first - 50_000, task.shots), Run(task.seed))
    model = Model(towers, adapted)
    labels = torch.arange(len(CLASSES)).repeat_interleave(ASKED)
    return {
        test: round((model.logits(pictures).argmax(1) == labels).double().mean().item(), 6)
        for test, pictures in test_sets(first).items()
    }


def support_of(towers: TwoTowers, first: int, shots: int) -> Support:
    """The drawings of all classes from seed `first` on, with the names of the classes and what the towers see."""
    pictures = negatives(drawings(first, shots).flatten(0, 1))
    labels = torch.arange(len(CLASSES)).repeat_interleave(shots)
    support = Support(pictures, labels, towers.frozen_features(pictures), len(CLASSES), CLASSES)
    return with_texts(towers, support, class_texts(CLASSES))


@lru_cache(maxsize=1)
def test_sets(first: int) -> dict[str, Tensor]:
    """The same drawings `(classes x ASKED, 3, 32, 32)` as they are learned, and under each shift."""
    return kinds(drawings(first, ASKED).flatten(0, 1), torch.Generator().manual_seed(first))


# --- all of them ---------------------------------------------------------------------------------------------------


def rate_tasks() -> list[Task]:
    """Every learning rate at 8 shots, on one draw."""
    return [Task(name, rate, 8, 0, RATE_SEED) for name, way in WAYS.items() for rate in way.rates]


def compared_tasks(tried: Iterable[dict[str, Any]]) -> list[Task]:
    """Every way at each number of shots, with the learning rate that was the best; seed by seed."""
    rates = best_rates(tried)
    lacking = [name for name, way in WAYS.items() if way.rates and name not in rates]
    if lacking:
        sys.exit(f"Learning rates of {', '.join(lacking)} are not chosen. Run: python benchmarks/tiny_clip.py rates")
    return [
        Task(name, rates.get(name), shots, seed, TEST_SEED) for seed in range(SEEDS) for shots in SHOTS for name in WAYS
    ]


def best_rates(tried: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Of each way the rate with the most right answers on drawings like those learned from; of equals the lower one."""
    right: dict[str, dict[float, float]] = {}
    for row in sorted(tried, key=lambda row: row["rate"]):
        of_way = right.setdefault(row["way"], {})
        of_way[row["rate"]] = of_way.get(row["rate"], 0.0) + row["right"][LEARNED]
    return {name: max(of_way, key=lambda rate: of_way[rate]) for name, of_way in right.items()}


def fill(towers: TwoTowers, path: Path, part: str, tasks: list[Task]) -> None:
    """Adds to the record the tasks that it lacks, one at a time, and says once a minute how far it is."""
    record = read_record(path)
    if record["towers"] not in ("", towers.fingerprint):
        sys.exit(f"{path} is of other towers. Give --record another file, or remove this one.")
    record["towers"] = towers.fingerprint
    spoken = time.monotonic()
    for number, task in enumerate(tasks, start=1):
        if task.found(record[part]):
            continue
        record[part].append(vars(task) | {"right": answered(towers, task)})
        write_atomically(path, as_text(record))
        if time.monotonic() - spoken > 60:
            print(f"{part}: {number} of {len(tasks)}", flush=True)
            spoken = time.monotonic()


def read_record(path: Path) -> dict[str, Any]:
    """What has been found so far."""
    return json.loads(path.read_text()) if path.is_file() else {"towers": "", "rates": [], "runs": []}


def as_text(record: dict[str, Any]) -> str:
    """The record as JSON with a line for each task."""
    parts = [f'"towers": {json.dumps(record["towers"])}']
    for part in ("rates", "runs"):
        rows = ",\n  ".join(json.dumps(row) for row in record[part])
        parts.append(f'"{part}": [\n  {rows}\n ]')
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pretrain", "rates", "run", "table"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="where the towers are, or go (%(default)s)")
    parser.add_argument("--record", type=Path, default=RECORD, help="where results go (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
