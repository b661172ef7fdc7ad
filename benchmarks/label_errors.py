"""How many wrong labels `fewshot doctor --learn` finds, beside a plain rule of neighbours and cleanlab.

    python benchmarks/label_errors.py --tasks 20

A task: 5 classes of a set with 5 or 10 pictures each; every label is replaced by another with probability 0.1. Prints
JSON lines: by rule and shots its precision, recall and their harmonic mean, over all pictures of all tasks; and how
often it names a picture of a task without a wrong label. cleanlab gets leave-one-out probabilities of ridge, as `adapt`
has them, and its default, `find_label_issues`. The prior of `doctor` was chosen on pacs/art_painting, pacs/sketch and
cifar10; `--sets` leaves sets out. Needs ../shared/data; cleanlab is left out where it is missing.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from shared_sets import SETS, shared_sets
from torch import Tensor

from fewshot_cli.engine.trust.label_errors import wrong_labels
from fewshot_cli.engine.trust.metrics import best_sharpening
from fewshot_cli.methods.ridge import Ridge

WAY, FLIPPED, NEIGHBOURS = 5, 0.1, 5
CHOSEN_ON = ("pacs/art_painting", "pacs/sketch", "cifar10")

Rule = Callable[[Tensor, Tensor], set[int]]


def ours(x: Tensor, y: Tensor) -> set[int]:
    return {found.row for found in wrong_labels(x, y, WAY)}


def neighbours(x: Tensor, y: Tensor) -> set[int]:
    """Those of which most of the five nearest are of one other class."""
    unit = F.normalize(x, dim=1)
    nearest = (unit @ unit.T).fill_diagonal_(-2).topk(NEIGHBOURS, dim=1).indices
    votes = F.one_hot(y[nearest], WAY).sum(1)
    return set((votes.argmax(1) != y).nonzero().squeeze(1).tolist())


def cleanlab(x: Tensor, y: Tensor) -> set[int]:
    from cleanlab.filter import find_label_issues

    logits = Ridge().leave_one_out(x, y, WAY)
    several = torch.bincount(y, minlength=WAY)[y] > 1
    p = (logits.clamp(min=-1e3) * best_sharpening(logits[several], y[several])).double().softmax(1)
    return set(find_label_issues(y.numpy(), p.numpy(), n_jobs=1).nonzero()[0].tolist())


RULES: dict[str, Rule] = {"fewshot doctor --learn": ours, "five neighbours": neighbours, "cleanlab": cleanlab}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20, help="of each set and number of pictures")
    parser.add_argument("--sets", nargs="*", default=[name for name in SETS if name not in CHOSEN_ON])
    options = parser.parse_args()
    try:
        import cleanlab as _
    except ImportError:
        del RULES["cleanlab"]
    sets = shared_sets(options.sets)
    for shots in (5, 10):
        counts: dict[str, Counter[str]] = {name: Counter() for name in RULES}
        for one in sets:
            for seed in range(options.tasks):
                rng = torch.Generator().manual_seed(100 * seed + shots)
                rows, _ = one.task(WAY, shots, rng)
                x, truth = one.features[rows.flatten()], torch.arange(WAY).repeat_interleave(shots)
                flipped = torch.rand(len(truth), generator=rng) < FLIPPED
                others = (truth + torch.randint(1, WAY, truth.shape, generator=rng)) % WAY
                given = torch.where(flipped, others, truth)
                wrong = set(flipped.nonzero().squeeze(1).tolist())
                for name, rule in RULES.items():
                    counts[name] += counted(rule(x, given), wrong) + clean(rule(x, truth))
        for name, found in counts.items():
            print(json.dumps({"shots": shots, "rule": name} | figures(found)), flush=True)


def counted(named: set[int], wrong: set[int]) -> Counter[str]:
    return Counter({"right": len(named & wrong), "named": len(named), "wrong": len(wrong)})


def clean(named: set[int]) -> Counter[str]:
    return Counter({"tasks": 1, "named in clean": len(named)})


def figures(found: Mapping[str, int]) -> dict[str, float]:
    precision, recall = found["right"] / max(1, found["named"]), found["right"] / max(1, found["wrong"])
    return {
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1": round(2 * precision * recall / max(1e-9, precision + recall), 3),
        "named in a task without wrong labels": round(found["named in clean"] / found["tasks"], 2),
    }


if __name__ == "__main__":
    main()
