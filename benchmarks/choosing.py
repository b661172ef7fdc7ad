"""What choosing a recipe by images left out is worth, on many small tasks of frozen features.

    python benchmarks/choosing.py run [--tasks 4]    keeps results in benchmarks/results/choosing.json
    python benchmarks/choosing.py                    prints the section of docs/results.md

Tasks have 5 or 20 classes of each set in ../shared/data, from 1 to 20 images a class, as many of each or uneven, and
are asked about up to 30 other images of each class. `auto` takes the head that `fewshot adapt` takes without a recipe
and without time to train. Its rule, and the strength and balance of `cosine-ridge`, were chosen on four of the sets.
The best of each task is partly so by chance. So it is also found by half of the queries and judged by the others.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from shared_sets import Set, add_backbone, shared_sets
from torch import Tensor

from fewshot_cli.engine.trust.choosing import chosen
from fewshot_cli.jobs.classify.choose import HEADS, MANY, WITH_MANY, usual_head
from fewshot_cli.methods.base import ClosedFormMethod
from fewshot_cli.recipes import load_recipe

RESULT = Path(__file__).parent / "results" / "choosing.json"
CHOSE = ("pacs/art_painting", "pacs/cartoon", "cifar10", "omniglot")
"""The sets that constants were chosen on."""
WAYS, SHOTS, QUERIES = (5, 20), (1, 2, 5, 10, 20), 30
AUTO = "auto"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("run", "table"), default="table")
    parser.add_argument("--tasks", type=int, default=4, help="of each kind and set")
    parser.add_argument("-o", "--output", type=Path, default=RESULT)
    add_backbone(parser)
    options = parser.parse_args()
    if options.what == "run":
        sets = shared_sets(None, options.backbone, options.weights)
        tasks = [row for one in sets for row in measured(one, options.tasks)]
        options.output.write_text(json.dumps({"tasks": tasks}, indent=0) + "\n", encoding="utf-8")
    print(section(options.output))


def measured(one: Set, tasks: int) -> list[dict[str, Any]]:
    """The accuracy of every head, and of the one chosen, on random tasks of a set."""
    rng = torch.Generator().manual_seed(0)
    found = []
    counts = torch.bincount(one.labels)
    for way in WAYS:
        for shots in SHOTS:
            if int((counts >= shots + 5).sum()) < min(way, len(counts)) or (way > len(counts)):
                continue
            for uneven in (False, True) if shots > 1 else (False,):
                found += [measured_task(one, way, shots, uneven, rng) for _ in range(tasks)]
    return found


def measured_task(one: Set, way: int, shots: int, uneven: bool, rng: torch.Generator) -> dict[str, Any]:
    """One task: the accuracy of each head by its name, and of `auto`."""
    size = min(shots + QUERIES, int(torch.bincount(one.labels).min()))
    rows, _ = one.task(way, size, rng)
    kept = torch.randint(1, shots + 1, (way,), generator=rng) if uneven else torch.full((way,), shots)
    known = [(rows[c, : int(kept[c])], c) for c in range(way)]
    support, labels = joined(known)
    queries, truth = joined([(rows[c, shots:], c) for c in range(way)])
    x, q = one.features[support], one.features[queries]
    right = {name: (head(name).head(x, labels, way).logits(q).argmax(1) == truth).double() for name in HEADS}
    accuracies = {name: float(of_each.mean()) for name, of_each in right.items()}
    halves = {name: [float(of_each[0::2].mean()), float(of_each[1::2].mean())] for name, of_each in right.items()}
    taken = HEADS[choice(x, labels, way)]
    facts = {"set": one.name, "way": way, "shots": shots, "uneven": uneven, "taken": taken}
    return facts | accuracies | {AUTO: accuracies[taken], "halves": halves}


def joined(parts: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Rows of all parts, and the label of each."""
    rows = torch.cat([part for part, _ in parts])
    return rows, torch.cat([torch.full((len(part),), label) for part, label in parts])


def choice(x: Tensor, labels: Tensor, way: int) -> int:
    """The place of the head that `adapt` takes."""
    asked, usual = torch.bincount(labels, minlength=way)[labels] > 1, usual_head(HEADS, labels)
    if not bool(asked.any()):
        return usual
    return chosen([head(name).leave_one_out(x, labels, way)[asked] for name in HEADS], labels[asked], usual)


def head(name: str) -> ClosedFormMethod:
    method = load_recipe(name).learner.closed_form
    assert method is not None
    return method


def section(result: Path = RESULT) -> str:
    """What docs/results.md says of this; nothing where it was not run."""
    if not result.exists():
        return ""
    tasks = json.loads(result.read_text(encoding="utf-8"))["tasks"]
    groups = {
        "sets that chose nothing": [task for task in tasks if task["set"] not in CHOSE],
        "sets that chose": [task for task in tasks if task["set"] in CHOSE],
    }
    others = groups["sets that chose nothing"]
    groups |= {f"of these, {shots} a class": [t for t in others if t["shots"] == shots] for shots in SHOTS}
    lines = [
        f"| tasks | number | {' | '.join((*HEADS, AUTO))} | best of each task | its lead | best by other queries |",
        f"| --- | ---: |{' ---: |' * (len(HEADS) + 4)}",
        *(line(title, group) for title, group in groups.items()),
    ]
    many = [task for task in tasks if task["shots"] >= MANY and not task["uneven"]]
    other = sum(task["taken"] != (WITH_MANY if task in many else HEADS[0]) for task in tasks)
    text = {"first": HEADS[0], "auto": AUTO, "many": MANY, "with_many": WITH_MANY, "other": other, "tasks": len(tasks)}
    return TEXT.format(table="\n".join(lines), **text)


def line(title: str, tasks: Sequence[dict[str, Any]]) -> str:
    means = [100 * sum(task[name] for task in tasks) / len(tasks) for name in (*HEADS, AUTO)]
    best = 100 * sum(max(task[name] for name in HEADS) for task in tasks) / len(tasks)
    cells = [*(f"{mean:.1f}" for mean in (*means, best)), f"{best - means[-1]:.2f}", f"{found_by_others(tasks):.1f}"]
    return f"| {title} | {len(tasks)} | {' | '.join(cells)} |"


def found_by_others(tasks: Sequence[dict[str, Any]]) -> float:
    """The accuracy in % on half of the queries of the head that is best on the other half, both ways."""
    found = [
        task["halves"][max(HEADS, key=lambda name: task["halves"][name][half])][1 - half]
        for task in tasks
        for half in (0, 1)
    ]
    return 100 * sum(found) / len(found)


TEXT = """## Which head, if none is named

`fewshot adapt` without a recipe takes `{first}`, and `{with_many}` where every class has {many} images or more.
Another head is taken only where it is right about so many more of the images left out that chance would do that in one
of 1,000 cases. Training is not part of this table.

```bash
python benchmarks/choosing.py run
```

{table}

Accuracy in %, EfficientNet-Lite0 at 224 px, on cpu; 5 and 20 classes, even and uneven. The best of each task is the
head that did best on these very queries, which nobody can know. Its lead over `{auto}`, the regret, is mostly chance:
who knew the answers to half of the queries, and took what is best on these, would have the accuracy of the last column
on the others. Images left out changed the choice in {other} of {tasks} tasks; they are asked for the sake of backbones
and folders unlike these.
"""


if __name__ == "__main__":
    main()
