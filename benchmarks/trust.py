"""Whether what a support set says of itself holds: the promised accuracy and its interval, by images a class.

    python benchmarks/trust.py run --sets pacs/photo pacs/sketch dtd10 caltech101 -o tested.json
    python benchmarks/trust.py table tested.json

Tasks have 5 or 20 classes of 2, 3, 5, 10 or 20 images, in every third task 1 to twice as many, on frozen features
of EfficientNet-Lite0. The truth is the accuracy on all other images of these classes, classes weighted as in the
support set. These images are few, too: an interval that holds the accuracy on endlessly many in 95 % of the tasks is
seen to hold less often. How often is in the column `if it were right`. The constants in `engine/trust/expected.py`
were chosen on pacs/art_painting, pacs/cartoon, cifar10 and omniglot.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit, logit
from scipy.stats import binom
from shared_sets import SETS, Set, add_backbone, shared_sets
from torch import Tensor

from fewshot_cli.engine.trust.metrics import Z95
from fewshot_cli.jobs.classify.held_out import MORE, HeldOut, left_out_one_by_one
from fewshot_cli.methods.base import ClosedFormMethod
from fewshot_cli.recipes import load_recipe

HEADS = ("ridge", "lda", "gaussian", "protonet")
SHOTS = (2, 3, 5, 10, 20)
QUERIES = 8  # images of a class that are at least left to ask about
CHOSE = ("pacs/art_painting", "pacs/cartoon", "cifar10", "omniglot")


@dataclass(frozen=True)
class Task:
    """Rows of a support set, of queries and of `MORE` further images of each class, with labels; none where too few."""

    shots: int
    even: bool
    support: tuple[Tensor, Tensor]
    queries: tuple[Tensor, Tensor]
    more: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Row:
    """A head on a task: what was promised, what came, and the same with more images of each class.

    `asked` is how many images the truth rests on.
    """

    set: str
    head: str
    shots: int
    even: bool
    mean: float
    low: float
    high: float
    truth: float
    asked: int
    leave_one_out: float
    more: tuple[float, float, float]
    more_truth: float | None


def tasks(found: Set, count: int) -> Iterator[Task]:
    """Tasks of a set, of all sizes in turn; the same at every run."""
    rng = torch.Generator().manual_seed(sum(map(ord, found.name)))
    sizes = torch.bincount(found.labels)
    for number in range(count):
        shots, even = SHOTS[number % len(SHOTS)], number // len(SHOTS) % 3 < 2
        way = 20 if int(torch.randint(4, (1,), generator=rng)) == 3 else 5
        shots = min(shots, int(sizes.max()) - QUERIES - MORE)
        able = (sizes >= shots + QUERIES + MORE).nonzero().squeeze(1)
        classes = able[torch.randperm(len(able), generator=rng)[:way]]
        counts = (
            torch.full((len(classes),), shots) if even else torch.randint(1, 2 * shots, (len(classes),), generator=rng)
        )
        counts = torch.minimum(counts, sizes[classes] - QUERIES)
        counts[0] = counts[0].clamp(min=2)
        yield _task(found, classes, counts, shots, even, rng)


def _task(found: Set, classes: Tensor, counts: Tensor, shots: int, even: bool, rng: torch.Generator) -> Task:
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        members = (found.labels == label).nonzero().squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        spare = MORE if len(members) - count >= MORE + QUERIES else 0
        for part, rows in zip(parts, members.split([count, spare, len(members) - count - spare]), strict=True):
            part.append(rows)
    support, more, queries = ((torch.cat(part), _labels(part)) for part in parts)
    return Task(shots, even, support, queries, more if len(more[0]) == MORE * len(classes) else None)


def _labels(rows: list[Tensor]) -> Tensor:
    return torch.arange(len(rows)).repeat_interleave(torch.tensor([len(some) for some in rows]))


def row(found: Set, task: Task, name: str) -> Row:
    """What a head promises on a task, and what comes."""
    method = load_recipe(name).learner.closed_form
    assert method
    (support, labels), way = task.support, int(task.support[1].max()) + 1
    held = left_out_one_by_one(method, found.features[support], labels, way)
    assert isinstance(held, HeldOut)
    now, ahead = held.expected, held.with_more
    more_truth = None
    if task.more:
        grown = torch.cat([support, task.more[0]]), torch.cat([labels, task.more[1]])
        more_truth = truth(method, found.features, grown, task, way)
    return Row(
        set=found.name,
        head=name,
        shots=task.shots,
        even=task.even,
        mean=now.mean,
        low=now.low,
        high=now.high,
        truth=truth(method, found.features, task.support, task, way),
        asked=worth(task, way),
        leave_one_out=held.accuracy.mean,
        more=(ahead.mean, ahead.low, ahead.high),
        more_truth=more_truth,
    )


def truth(method: ClosedFormMethod, features: Tensor, support: tuple[Tensor, Tensor], task: Task, way: int) -> float:
    """The accuracy on the queries, classes weighted as in the task's support set."""
    head = method.head(features[support[0]], support[1], way)
    right = (head.logits(features[task.queries[0]]).argmax(1) == task.queries[1]).float()
    asked = torch.bincount(task.queries[1], minlength=way)
    of_class = torch.zeros(way).index_add_(0, task.queries[1], right) / asked
    return float(of_class[task.support[1]].mean())


def worth(task: Task, way: int) -> int:
    """How many images would tell the accuracy as surely if they were asked about as often as classes are weighted."""
    weights = torch.bincount(task.support[1], minlength=way) / len(task.support[1])
    return max(1, round(float(1 / (weights.square() / torch.bincount(task.queries[1], minlength=way)).sum())))


def seen_to_hold(low: float, high: float, asked: int) -> float:
    """How often the truth of so many images lies in an interval that is right: it holds the accuracy in 95 % of cases.

    The accuracy's logit is taken to be normal, since in logits Wilson's interval reaches as far up as down.
    """
    deviates = np.linspace(-4, 4, 81)
    weights = np.exp(-(deviates**2) / 2)
    ends = logit(np.clip([low, high], 1e-6, 1 - 1e-6))
    accuracies = expit(ends.mean() + (ends[1] - ends[0]) / (2 * Z95) * deviates)
    inside = binom.cdf(np.floor(high * asked), asked, accuracies) - binom.cdf(
        np.ceil(low * asked) - 1, asked, accuracies
    )
    return float((weights * inside).sum() / weights.sum())


def table(rows: list[Row]) -> str:
    """The promises against the truth, by images a class, evenness, head and set."""
    groups: dict[str, list[Row]] = {}
    for each in rows:
        of_shots = min(SHOTS, key=lambda shots: abs(shots - each.shots))
        for key in ("all", f"{of_shots} images a class", _evenness(each), each.head, each.set):
            groups.setdefault(key, []).append(each)
    lines = [
        "| tasks x heads | n | promised - truth | interval holds | if it were right | its width "
        f"| leave-one-out - truth | with {MORE} more: promised - truth | interval holds |",
        "|---" * 9 + "|",
    ]
    return "\n".join(lines + [_line(key, groups[key]) for key in _in_order(list(groups))])


def _evenness(each: Row) -> str:
    return "as many of each class" if each.even else "uneven classes"


def _in_order(keys: list[str]) -> list[str]:
    of_shots = sorted((key for key in keys if key.endswith("a class")), key=lambda key: int(key.split()[0]))
    return ["all", *of_shots, *(key for key in keys if key != "all" and key not in of_shots)]


def _line(key: str, rows: list[Row]) -> str:
    grown = [(each.more, each.more_truth) for each in rows if each.more_truth is not None]
    cells = [
        key,
        str(len(rows)),
        f"{_points(rows, lambda each: each.mean - each.truth):+.1f}",
        f"{_points(rows, lambda each: each.low <= each.truth <= each.high):.1f} %",
        f"{_points(rows, lambda each: seen_to_hold(each.low, each.high, each.asked)):.1f} %",
        f"{_points(rows, lambda each: each.high - each.low):.0f}",
        f"{_points(rows, lambda each: each.leave_one_out - each.truth):+.1f}",
        f"{100 * sum(more[0] - came for more, came in grown) / len(grown):+.1f}" if grown else "-",
        f"{100 * sum(more[1] <= came <= more[2] for more, came in grown) / len(grown):.1f} %" if grown else "-",
    ]
    return f"| {' | '.join(cells)} |"


def _points(rows: list[Row], figure: Callable[[Row], float]) -> float:
    return 100 * sum(map(figure, rows)) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    run.add_argument("--heads", nargs="+", default=list(HEADS), help="recipes of heads in closed form")
    run.add_argument("--tasks", type=int, default=75, help="of each set")
    add_backbone(run)
    run.add_argument("-o", "--output", type=Path, required=True)
    commands.add_parser("table").add_argument("files", nargs="+", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.command == "table":
        print(table([Row(**each) for path in asked.files for each in json.loads(path.read_text())]))
        return
    rows = []
    for found in shared_sets(asked.sets, asked.backbone, asked.weights):
        for task in tasks(found, asked.tasks):
            rows += [row(found, task, head) for head in asked.heads]
        asked.output.write_text(json.dumps([asdict(each) for each in rows]) + "\n")
        print(found.name, len(rows), flush=True)


if __name__ == "__main__":
    main()
