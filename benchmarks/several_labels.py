"""How good thresholds by leave-one-out are for images with several labels, beside thresholds that are fixed.

    python benchmarks/several_labels.py --tasks 10

A task: 5 classes of a set. An image is one picture of it, or two of different classes side by side on grey, about half
and half. Each class is on 2, 5 or 10 of the images that are learned from, and 40 others are asked about. Prints a JSON
line for each number of images and rule: macro F1 and exact match, the mean over all tasks of all sets with its 95 %
half width. The rule "expected" is what `adapt` promises of its own answers, how often its interval holds, and how often
one that is right would be seen to hold, as 40 images are few.
Needs ../shared/data.
"""

import argparse
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from shared_sets import BACKBONE, SETS, SHARED
from torch import Tensor
from trust import seen_to_hold

from fewshot_cli.engine.head.thresholds import (
    chosen_thresholds,
    common_threshold,
    greatest_f1,
    platt_scaling,
    with_the_share_of_all,
)
from fewshot_cli.engine.trust.label_sets import by_class, exact_matches, macro_f1
from fewshot_cli.images.image_ref import StoredFile
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.jobs.features import embed
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.several_labels.learned import learn_marks
from fewshot_cli.methods.ridge import Ridge
from fewshot_cli.storage.feature_cache import FeatureCache

WAY, QUERIES, IMAGES, SIDE = 5, 40, (2, 5, 10), 256
GREY = (128, 128, 128)


def pasted(paths: list[Path]) -> bytes:
    """One picture alone, or two side by side, in a square of grey, as PNG."""
    canvas = Image.new("RGB", (SIDE, SIDE), GREY)
    for place, path in enumerate(paths):
        with Image.open(path) as picture:
            half = picture.convert("RGB").resize((SIDE // 2, SIDE // 2))
        left = SIDE // 4 if len(paths) == 1 else place * SIDE // 2
        canvas.paste(half, (left, SIDE // 4))
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


def parted(labels: list[int], rng: torch.Generator) -> list[list[int]]:
    """The labels in groups of one or two, all different within a group."""
    groups: list[list[int]] = []
    for label in labels:
        if groups and len(groups[-1]) == 1 and label not in groups[-1] and bool(torch.rand(1, generator=rng) < 0.67):
            groups[-1].append(label)
        else:
            groups.append([label])
    return groups


def task(folder: Folder, classes: list[str], rng: torch.Generator) -> tuple[list[list[Path]], Tensor, int]:
    """The pictures of each image, the marks, and how many are learned from: the first ones are of the first rounds."""
    pools = [[item.path for item in folder.items if item.label == name] for name in classes]
    pools = [[pool[i] for i in torch.randperm(len(pool), generator=rng)] for pool in pools]
    groups: list[list[int]] = []
    for _ in range(max(IMAGES)):
        groups += parted(torch.randperm(WAY, generator=rng).tolist(), rng)
    learned_from = len(groups)
    for _ in range(QUERIES):
        order = torch.randperm(WAY, generator=rng).tolist()
        groups.append(order[: 1 + int(torch.rand(1, generator=rng) < 0.5)])
    used = [0] * WAY
    images = []
    for group in groups:  # pictures asked about were never learned from, unless a class has too few of them
        images.append([pools[label][used[label] % len(pools[label])] for label in group])
        for label in group:
            used[label] += 1
    marks = torch.tensor([[int(label in group) for label in range(WAY)] for group in groups])
    return images, marks, learned_from


Rule = Callable[[Tensor, Tensor], Tensor]
"""From held-out probabilities and marks to thresholds."""


def common(probabilities: Tensor, marks: Tensor) -> Tensor:
    return common_threshold(probabilities, marks).expand(WAY)


def own(probabilities: Tensor, marks: Tensor) -> Tensor:
    return greatest_f1(probabilities, marks, common(probabilities, marks))


RULES: dict[str, Rule] = {
    "adapt": chosen_thresholds,
    "each label its own": own,
    "one for all labels": common,
    "probability 0.5": lambda probabilities, marks: torch.full((WAY,), 0.5, dtype=torch.float64),
}


def answers(x: Tensor, marks: Tensor, queries: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What each rule answers, and the plain score above 0.5."""
    scores = with_the_share_of_all(Ridge().marks_left_out(x, marks), marks)
    factor, offset = platt_scaling(scores, marks)
    asked = Ridge().marks_head(x, marks).logits(queries).double()
    for name, rule in RULES.items():
        thresholds = rule((factor * scores + offset).sigmoid(), marks)
        yield name, (factor * asked + offset).sigmoid() > thresholds
    yield "score 0.5", asked > 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10, help="of each set")
    parser.add_argument("--sets", nargs="*", default=["pacs/photo", "pacs/cartoon", "caltech101", "dtd10"])
    parser.add_argument("--work", type=Path, default=Path("several-labels"), help="where pasted pictures go")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    backbone = load_backbone(BACKBONE, Source(offline=True), None, torch.device("cpu"))
    found: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for name in options.sets:
        folder = read_labelled(SHARED / "data" / SETS[name])
        for number in range(options.tasks):
            rng = torch.Generator().manual_seed(1000 * number + len(name))
            chosen = sorted(folder.classes[i] for i in torch.randperm(len(folder.classes), generator=rng)[:WAY])
            images, marks, learned_from = task(folder, chosen, rng)
            paths = []
            for place, image in enumerate(images):
                path = options.work / f"{name.replace('/', '-')}-{number}-{place}.png"
                if not path.exists():
                    path.write_bytes(pasted(image))
                paths.append(path)
            seen = embed(backbone, [StoredFile(path) for path in paths], FeatureCache(), NoProgress()).features
            x, queries, truth = seen[:learned_from], seen[learned_from:], marks[learned_from:].bool()
            for shots in IMAGES:
                known = marks[:learned_from].cumsum(0).amax(1) <= shots
                for rule, given in answers(x[known], marks[:learned_from][known], queries):
                    row = macro_f1(by_class(given, truth)), exact_matches(given, truth) / QUERIES
                    found.setdefault((shots, rule), []).append(row)
                learned = learn_marks(Ridge(), x[known], marks[:learned_from][known])
                expected = learned.expected
                right = found[shots, "adapt"][-1][1]
                low, high = expected.low or 0, expected.high or 0
                inside = float(low <= right <= high)
                found.setdefault((shots, "expected"), []).append(
                    (macro_f1(learned.by_class), expected.mean or 0, inside, seen_to_hold(low, high, QUERIES))
                )
    for (shots, rule), rows in sorted(found.items()):
        columns = torch.tensor(rows, dtype=torch.float64)
        mean = [round(value, 4) for value in columns.mean(0).tolist()]
        half = [round(1.96 * value / math.sqrt(len(rows)), 4) for value in columns.std(0).tolist()]
        print(json.dumps({"images": shots, "rule": rule, "mean": mean, "ci95": half, "tasks": len(rows)}))


if __name__ == "__main__":
    main()
