"""Whether probabilities mean something: the calibration error of heads on new images, by images a class.

    python benchmarks/calibration.py run -o calibration.json
    python benchmarks/calibration.py table calibration.json

Tasks are those of `trust.py`. The error of one task is measured in 15 bins, where 200 or more images are left to ask
about. With so few, probabilities that are right have an error, too: it is measured with labels drawn from the
probabilities themselves, and stands beside. The error of all tasks together has no such floor: it puts the answers
of all tasks of a head into the same bins. `before` is one temperature fitted to leave-one-out answers alone.
The usual sharpening of each head and its spread were chosen on the sets in `trust.CHOSE`.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from shared_sets import SETS, Set, add_backbone, shared_sets
from torch import Tensor
from trust import CHOSE, SHOTS, Task, tasks

from fewshot_cli.engine.trust.metrics import best_sharpening, calibration_error
from fewshot_cli.jobs.classify.held_out import HeldOut, left_out_one_by_one, sharpening_of
from fewshot_cli.recipes import load_recipe

HEADS = ("cosine-ridge", "ridge", "lda", "gaussian", "protonet")
QUERIES = 200
BINS = 15


@dataclass(frozen=True)
class Row:
    """A head on a task: its calibration error, that of a temperature alone, and that of right probabilities.

    `bins` are, for each bin of the top probability, the number of answers and the sum of right - probability.
    """

    set: str
    head: str
    shots: int
    error: float
    before: float
    floor: float
    gap: float
    bins: tuple[tuple[int, float], ...]


def row(found: Set, task: Task, name: str, rng: torch.Generator) -> Row:
    """What the probabilities of a head are worth on a task."""
    learner = load_recipe(name).learner
    method = learner.closed_form
    assert method
    (support, labels), way = task.support, int(task.support[1].max()) + 1
    features = found.features[support]
    held = left_out_one_by_one(method, features, labels, way)
    assert isinstance(held, HeldOut)
    logits, true = method.head(features, labels, way).logits(found.features[task.queries[0]]), task.queries[1]
    p = (sharpening_of(held, learner, features.shape[1]) * logits).softmax(1)
    before = (best_sharpening(held.logits, held.labels) * logits).softmax(1)
    drawn = torch.multinomial(p, 1, generator=rng).squeeze(1)
    top, answers = p.max(1)
    right = (answers == true).float()
    return Row(
        set=found.name,
        head=name,
        shots=task.shots,
        error=calibration_error(p, true),
        before=calibration_error(before, true),
        floor=calibration_error(p, drawn),
        gap=float((top - right).mean()),
        bins=_bins(top, right),
    )


def _bins(top: Tensor, right: Tensor) -> tuple[tuple[int, float], ...]:
    which = (top * BINS).ceil().clamp(1, BINS).long() - 1
    return tuple((int((which == i).sum()), float((right - top)[which == i].sum())) for i in range(BINS))


def together(rows: Sequence[Row]) -> float:
    """The calibration error of all answers of these tasks in the same bins."""
    counts = sum(count for each in rows for count, _ in each.bins)
    return sum(abs(sum(each.bins[i][1] for each in rows)) for i in range(BINS)) / counts


def table(rows: Sequence[Row]) -> str:
    """The errors in points, for the sets that chose nothing and for those that chose, by head and images a class."""
    lines = [
        "| sets | tasks x heads | n | error of a task | if probabilities were right | before "
        "| probability - accuracy | error of all tasks together |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for sets, chose in (("chose nothing", False), ("chose the constants", True)):
        some = [each for each in rows if (each.set in CHOSE) == chose]
        lines += [_line(sets, key, group) for key, group in _groups(some) if group]
    return "\n".join(lines)


def _groups(rows: Sequence[Row]) -> Iterable[tuple[str, list[Row]]]:
    yield "all", list(rows)
    for head in HEADS:
        yield head, [each for each in rows if each.head == head]
    for shots in SHOTS:
        of_shots = [each for each in rows if min(SHOTS, key=lambda s: abs(s - each.shots)) == shots]
        yield f"{shots} images a class", of_shots


def _line(sets: str, key: str, rows: Sequence[Row]) -> str:
    means = [100 * sum(figures) / len(rows) for figures in zip(*map(_figures, rows), strict=True)]
    error, floor, before, gap = means
    cells = [sets, key, str(len(rows)), f"{error:.1f}", f"{floor:.1f}", f"{before:.1f}", f"{gap:+.1f}"]
    return f"| {' | '.join([*cells, f'{100 * together(rows):.1f}'])} |"


def _figures(each: Row) -> tuple[float, ...]:
    return each.error, each.floor, each.before, each.gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--tasks", type=int, default=75, help="of each set")
    run.add_argument("-o", "--output", type=Path, required=True)
    add_backbone(run)
    commands.add_parser("table").add_argument("file", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.command == "table":
        print(table([Row(**each) for each in json.loads(asked.file.read_text())]))
        return
    rows: list[Row] = []
    rng = torch.Generator().manual_seed(0)
    for found in shared_sets(list(SETS), asked.backbone, asked.weights):
        for task in tasks(found, asked.tasks):
            if len(task.queries[1]) >= QUERIES:
                rows += [row(found, task, head, rng) for head in HEADS]
        asked.output.write_text(json.dumps([asdict(each) for each in rows]) + "\n")
        print(found.name, len(rows), flush=True)


if __name__ == "__main__":
    main()
