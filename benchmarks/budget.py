"""Whether `adapt --budget` trains where training pays, and whether what a trained method promises of itself is true.

    python benchmarks/budget.py run --folds 2    goes on where it was stopped; keeps benchmarks/results/budget.json
    python benchmarks/budget.py table            prints the tables of docs/trust.md

Tasks have 5 classes of 5, 7 or 10 images of the sets in ../shared/data, at 96 px. `bitfit` is trained once on all of
them, and in folds for its held-out answers; heads in closed form have theirs by formula. The truth is the accuracy on
up to 40 others of each class.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from bitfit import task
from budget_tables import Task, tables
from shared_sets import BACKBONE, SETS
from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Run, Support
from fewshot_cli.engine.device import keep_freed_memory
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.jobs.classify.choose import HEADS
from fewshot_cli.jobs.classify.held_out import Adaptation, held_out
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.methods.base import Learner
from fewshot_cli.recipe_files import TRAINED
from fewshot_cli.recipes import DEFAULT_FOLDS, load_recipe

WAY, SHOTS, QUERIES = 5, (5, 7, 5, 10), 40
RESULT = Path(__file__).parent / "results" / "budget.json"
FIRST_STEPS = 8
FOLDS = (2, 3, 5)
"""Of the head that is taken: what training may be compared in."""
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    run.add_argument("--tasks", type=int, default=8, help="of each set")
    run.add_argument("--folds", nargs="+", type=int, default=[DEFAULT_FOLDS], help="each in turn")
    run.add_argument("--image-size", type=int, default=96)
    run.add_argument("--within", type=float, default=float("inf"), help="seconds after which no task is begun")
    for command in (run, commands.add_parser("table")):
        command.add_argument("-o", "--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    if asked.command == "table":
        print(tables(json.loads(asked.output.read_text())))
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    backbone = load_backbone(BACKBONE, Source(offline=True), asked.image_size, torch.device("cpu"))
    rows = json.loads(asked.output.read_text()) if asked.output.exists() else []
    found = {(row["set"], row["task"]): row for row in rows}
    end = time.monotonic() + asked.within
    for number in range(asked.tasks):
        for name in asked.sets:
            row = found.setdefault((name, number), {"set": name, "task": number, "shots": SHOTS[number % len(SHOTS)]})
            if all(str(folds) in row.get("folds", {}) for folds in asked.folds):
                continue
            if time.monotonic() > end:
                return
            measure(row, backbone, asked.folds)
            asked.output.write_text(json.dumps(list(found.values())) + "\n")
            print(name, number, row["seconds"], flush=True)


def measure(row: dict[str, Any], backbone: Backbone, folds: Sequence[int]) -> None:
    """Adds to the row what training and the heads answer, those of `folds` that it lacks."""
    support, queries, truth = task(backbone, row["set"], row["task"], WAY, row["shots"], QUERIES)
    learner = load_recipe(TRAINED).learner
    if "heads" not in row:
        seen = backbone.frozen_features(queries)
        row["labels"], row["truth"] = support.labels.tolist(), truth.tolist()
        row["heads"] = {name: of_head(name, backbone, support, seen, truth) for name in HEADS}
        taken = Task(row).head
        of_taken = {
            str(folds): in_folds(Trained(load_recipe(taken).learner), backbone, support, folds) for folds in FOLDS
        }
        row["heads"][taken]["folds"] = of_taken
        row["signs"] = {"logme": log_evidence(support), "h_score": h_score(support)}
        losses: list[float] = []
        begin = time.process_time()
        adapted = learner.adapt(backbone, support, Run(SEED, lambda step, steps, loss: losses.append(round(loss, 4))))
        row["seconds"] = {"all": round(time.process_time() - begin, 2)}
        row["losses"] = losses
        row["answers"] = listed(Model(backbone, adapted).logits(queries))
        first = load_recipe(TRAINED, (f"method.tuning.optim.steps={FIRST_STEPS}", "method.tuning.optim.epochs=0"))
        row["first"] = in_folds(first.learner, backbone, support, 2)
    for count in folds:
        begin = time.process_time()
        if str(count) not in row.setdefault("folds", {}):
            row["folds"][str(count)] = in_folds(learner, backbone, support, count)
            row["seconds"][str(count)] = round(time.process_time() - begin, 2)


def of_head(name: str, backbone: Backbone, support: Support, queries: Tensor, truth: Tensor) -> dict[str, Any]:
    """Leave-one-out answers of a head, what it promises, and its accuracy."""
    learner = load_recipe(name).learner
    assert learner.closed_form is not None
    held = held_out(Adaptation(learner, backbone, support, SEED), 0, NoProgress())
    assert not isinstance(held, str)
    head = learner.closed_form.head(support.features, support.labels, support.way)
    answers = head.logits(queries)
    accuracy = float((answers.argmax(1) == truth).double().mean())
    promise = [round(value, 4) for value in (held.expected.mean, held.expected.low, held.expected.high)]
    return {"accuracy": round(accuracy, 4), "promise": promise, "held": listed(held.logits)}


@dataclass(frozen=True)
class Trained(Learner):
    """A head that is judged in folds, as methods are that train."""

    head: Learner

    def adapt(self, backbone: Backbone, support: Support, run: Run) -> Adapted:
        return self.head.adapt(backbone, support, run)


def in_folds(learner: Learner, backbone: Backbone, support: Support, folds: int) -> list[list[float]]:
    """Answers about images that training did not see."""
    held = held_out(Adaptation(learner, backbone, support, SEED), folds, NoProgress())
    assert not isinstance(held, str)
    return listed(held.logits)


def listed(logits: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in logits.tolist()]


def log_evidence(support: Support, turns: int = 50) -> float:
    """LogME (You et al., ICML 2021, arXiv:2102.11005): the evidence of a linear model of one-hot labels, per image."""
    x = support.features.double()
    n, dim = x.shape
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    sigma = s.square()
    found = []
    for label in range(support.way):
        y = (support.labels == label).double()
        z2 = (u.T @ y).square()
        rest = float(y.square().sum() - z2.sum())
        alpha = beta = 1.0
        for _ in range(turns):
            t = alpha / beta
            gamma = float((sigma / (sigma + t)).sum())
            m2 = float((sigma * z2 / (t + sigma).square()).sum())
            res2 = float((z2 / (1 + sigma / t).square()).sum()) + rest
            alpha, beta = gamma / (m2 + 1e-9), (n - gamma) / (res2 + 1e-9)
        t = alpha / beta
        m2 = float((sigma * z2 / (t + sigma).square()).sum())
        res2 = float((z2 / (1 + sigma / t).square()).sum()) + rest
        logs = torch.log(torch.tensor([alpha, beta, 2 * torch.pi], dtype=torch.float64)).tolist()
        log_det = float((alpha + beta * sigma).log().sum()) + (dim - len(sigma)) * logs[0]
        found.append((dim * logs[0] + n * (logs[1] - logs[2]) - log_det - beta * res2 - alpha * m2) / (2 * n))
    return round(sum(found) / len(found), 4)


def h_score(support: Support) -> float:
    """H-score (Bao et al., 2019) with a shrunk covariance: the trace of its inverse times that between classes."""
    x = support.features.double()
    x = x - x.mean(0)
    n, dim = x.shape
    means = torch.stack([x[support.labels == label].mean(0) for label in range(support.way)])[support.labels]
    covariance = x.T @ x / n
    shrunk = covariance + torch.eye(dim, dtype=torch.float64) * covariance.trace() / dim
    return round(float(torch.linalg.solve(shrunk, means.T @ means / n).trace()), 4)


if __name__ == "__main__":
    main()
