"""What a few labels are worth in the order that `fewshot next` gives, beside random picks and other rules.

    python benchmarks/next.py --tasks 15

A task: 5 classes of a set, uneven pools of 6 to 18 unlabelled pictures of each, 10 more to be asked about, and one or
two labelled pictures a class. Each rule picks five pictures, these get their labels, ridge is fitted anew, and so on up
to 20 labels. Prints JSON lines: by rule the mean accuracy after 5, 10 and 20 labels in percent, and what that is more
than random picks have on the same tasks, with the 95 % interval over tasks. Needs ../shared/data.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from shared_sets import SETS, Set, shared_sets
from torch import Tensor

from fewshot_cli.engine.defaults import RIDGE_STRENGTH
from fewshot_cli.engine.head.active_learning import worthiest_labels
from fewshot_cli.engine.head.linear import typical_norm
from fewshot_cli.engine.trust.metrics import Z95, best_sharpening
from fewshot_cli.methods.ridge import Ridge

WAY, ASKED, BATCH = 5, 10, 5
CHECKED = (5, 10, 20)
RANDOM = "random"


def random(known: Tensor, pool: Tensor, probabilities: Tensor, count: int) -> list[int]:
    """Any."""
    return torch.randperm(len(pool))[:count].tolist()


def margin(known: Tensor, pool: Tensor, probabilities: Tensor, count: int) -> list[int]:
    """Those with the least between the two best answers (Scheffer et al., 2001)."""
    return unsure(probabilities).argsort(descending=True)[:count].tolist()


def margin_density(known: Tensor, pool: Tensor, probabilities: Tensor, count: int) -> list[int]:
    """Margin times the mean cosine to the pool (Settles and Craven, 2008: information density)."""
    unit = F.normalize(pool, dim=1)
    density = (unit @ unit.T).mean(1).clamp(min=1e-6)
    return (unsure(probabilities) * density).argsort(descending=True)[:count].tolist()


def variance(known: Tensor, pool: Tensor, probabilities: Tensor, count: int) -> list[int]:
    """Those that most reduce ridge's variance over the pool (Yu et al., 2006: transductive experimental design)."""
    norm, mean = typical_norm(known), torch.cat([known, pool]).double().mean(0)
    x, u = (known.double() - mean) / norm, (pool.double() - mean) / norm
    gram = x @ x.T + RIDGE_STRENGTH * torch.eye(len(x)).to(x)
    k = (u @ u.T - (u @ x.T) @ torch.linalg.solve(gram, x @ u.T)) / RIDGE_STRENGTH
    picked: list[int] = []
    for _ in range(count):
        worth = k.square().sum(0) / (1 + k.diagonal())
        worth[picked] = -torch.inf
        best = int(worth.argmax())
        picked.append(best)
        k = k - torch.outer(k[:, best], k[best]) / (1 + k[best, best])
    return picked


def next_(known: Tensor, pool: Tensor, probabilities: Tensor, count: int) -> list[int]:
    """What `fewshot next` picks."""
    return [picture.row for picture in worthiest_labels(known, pool, probabilities, count)]


def unsure(probabilities: Tensor) -> Tensor:
    best = probabilities.topk(2, dim=1).values
    return 1 - (best[:, 0] - best[:, 1])


Rule = Callable[[Tensor, Tensor, Tensor, int], list[int]]
RULES: Mapping[str, Rule] = {
    RANDOM: random,
    "margin": margin,
    "margin x density": margin_density,
    "variance": variance,
    "fewshot next": next_,
}


@dataclass(frozen=True)
class Task:
    """Labelled features, the pool with its true labels, and queries."""

    known: Tensor
    labels: Tensor
    pool: Tensor
    truth: Tensor
    queries: Tensor
    answers: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=15, help="of each set, with one picture a class and with two")
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    options = parser.parse_args()
    found: dict[str, dict[tuple[str, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for one in shared_sets(options.sets):
        for seed in range(options.tasks):
            for shots in (1, 2):
                task = drawn(one, shots, seed)
                for name, rule in RULES.items():
                    for labels, accuracy in replayed(task, rule, seed).items():
                        found[name][one.name, labels].append(accuracy)
    for where in ["all", *options.sets]:
        for name, curves in found.items():
            print(json.dumps({"set": where, "rule": name} | figures(curves, found[RANDOM], where)), flush=True)


def figures(
    curves: Mapping[tuple[str, int], list[float]], chance: Mapping[tuple[str, int], list[float]], where: str
) -> dict[str, float]:
    facts = {}
    for labels in CHECKED:
        keys = [key for key in curves if key[1] == labels and where in ("all", key[0])]
        mine, theirs = (torch.tensor([x for key in keys for x in each[key]]).double() for each in (curves, chance))
        gain = mine - theirs
        facts[f"{labels} labels"] = round(100 * float(mine.mean()), 1)
        facts[f"{labels} gain"] = round(100 * float(gain.mean()), 1)
        facts[f"{labels} ci95"] = round(100 * float(Z95 * gain.std() / len(gain) ** 0.5), 1)
    return facts


def drawn(one: Set, shots: int, seed: int) -> Task:
    rng = torch.Generator().manual_seed(1000 * seed + shots)
    images = min(30, int(torch.bincount(one.labels).min()))
    rows, _ = one.task(WAY, images, rng)
    most = images - ASKED - shots
    sizes = torch.randint(min(6, most), most + 1, (WAY,), generator=rng)
    pool = torch.cat([rows[label, ASKED + shots :][: sizes[label]] for label in range(WAY)])
    labels = torch.arange(WAY)
    return Task(
        one.features[rows[:, ASKED : ASKED + shots].flatten()],
        labels.repeat_interleave(shots),
        one.features[pool],
        labels.repeat_interleave(sizes),
        one.features[rows[:, :ASKED].flatten()],
        labels.repeat_interleave(ASKED),
    )


def replayed(task: Task, rule: Rule, seed: int) -> dict[int, float]:
    """The accuracy after so many labels."""
    torch.manual_seed(seed)
    x, y, left, found = task.known, task.labels, torch.arange(len(task.pool)), {}
    for labels in range(BATCH, max(CHECKED) + 1, BATCH):
        probabilities = (sharpening(x, y) * Ridge().head(x, y, WAY).logits(task.pool[left])).softmax(1)
        picked = left[rule(x, task.pool[left], probabilities, BATCH)]
        x, y = torch.cat([x, task.pool[picked]]), torch.cat([y, task.truth[picked]])
        left = left[~torch.isin(left, picked)]
        if labels in CHECKED:
            right = Ridge().head(x, y, WAY).logits(task.queries).argmax(1) == task.answers
            found[labels] = float(right.double().mean())
    return found


def sharpening(x: Tensor, y: Tensor) -> float:
    """As `adapt` has it; 1 with a single picture of each class."""
    several = torch.bincount(y, minlength=WAY)[y] > 1
    logits = Ridge().leave_one_out(x, y, WAY)[several]
    return best_sharpening(logits, y[several]) if len(logits) else 1.0


if __name__ == "__main__":
    main()
