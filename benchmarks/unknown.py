"""Refusing what is unknown, and sets of labels: how well scores tell, and whether the promises hold.

    python benchmarks/unknown.py run -o unknown.json
    python benchmarks/unknown.py table unknown.json

Tasks have 5 classes (4 of PACS) of 2, 5, 10 or 20 images, on frozen features of EfficientNet-Lite0. Known pictures are
others of these classes. Unknown ones are of the set's other classes (near) and of another set (far). With
negatives, 20 pictures of half of the other classes are the class `unknown`. The near ones are of the other half, and
`alike` are more of the half that the negatives are of. Of scores with negatives only that of each head is shown.
AUROC is the probability that a known picture scores higher than an unknown one. The share refused and the coverage
are of known pictures, against what was promised by held-out ones.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from shared_sets import SETS, Set, add_backbone, shared_sets
from sklearn.metrics import roc_auc_score
from torch import Tensor
from trust import CHOSE

from fewshot_cli.engine.trust.conformal import label_sets, set_thresholds
from fewshot_cli.engine.trust.images_needed import images_for_sets, images_to_refuse
from fewshot_cli.engine.trust.unknown import KnownScore, known_scores, refusal_threshold
from fewshot_cli.images.sources.class_folders import UNKNOWN
from fewshot_cli.jobs.classify.held_out import HeldOut, left_out_one_by_one, scores_of, sharpening_of
from fewshot_cli.recipes import load_recipe

HEADS = ("cosine-ridge", "ridge", "lda", "gaussian", "protonet")
SHOTS = (2, 5, 10, 20)
NEGATIVES = 20
ASKED = 40  # known pictures of a class
OTHERS = 300
REFUSED, COVERED = (0.05, 0.1, 0.2), (0.8, 0.9)
Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """A support set and pictures to ask about; `negatives` are of classes that are not `near`."""

    shots: int
    support: Tensor
    labels: Tensor
    known: Tensor
    true: Tensor
    near: Tensor
    far: Tensor
    negatives: Tensor
    alike: Tensor


@dataclass(frozen=True)
class Row:
    """A score on a task: AUROC against near and far pictures. Or a promise, and what came."""

    set: str
    head: str
    shots: int
    what: str
    near: float | None = None
    far: float | None = None
    alike: float | None = None
    came: float | None = None
    size: float | None = None


def tasks(found: Set, other: Set, count: int) -> Iterator[Task]:
    """Tasks of a set; the same at every run."""
    rng = torch.Generator().manual_seed(sum(map(ord, found.name)))
    sizes = torch.bincount(found.labels)
    for number in range(count):
        shots = SHOTS[number % len(SHOTS)]
        able = (sizes >= shots + 5).nonzero().squeeze(1)
        able = able[torch.randperm(len(able), generator=rng)]
        way = 4 if len(sizes) < 10 else 5
        if len(able) < way:
            continue
        rest = torch.tensor([label for label in range(len(sizes)) if label not in able[:way].tolist()])
        rest = rest[torch.randperm(len(rest), generator=rng)]
        support, known = [], []
        for label in able[:way].tolist():
            members = (found.labels == label).nonzero().squeeze(1)
            members = members[torch.randperm(len(members), generator=rng)]
            support.append(members[:shots])
            known.append(members[shots : shots + ASKED])
        near = _of(found, rest[len(rest) // 2 :], OTHERS, rng)
        half = _of(found, rest[: len(rest) // 2], NEGATIVES + OTHERS, rng)
        far = other.features[torch.randperm(len(other.features), generator=rng)[:OTHERS]]
        labels, true = (_numbered(rows) for rows in (support, known))
        of_classes = found.features[torch.cat(support)], labels, found.features[torch.cat(known)], true
        yield Task(shots, *of_classes, near, far, half[:NEGATIVES], half[NEGATIVES:])


def _of(found: Set, classes: Tensor, count: int, rng: torch.Generator) -> Tensor:
    rows = torch.isin(found.labels, classes).nonzero().squeeze(1)
    return found.features[rows[torch.randperm(len(rows), generator=rng)[:count]]]


def _numbered(rows: Sequence[Tensor]) -> Tensor:
    return torch.arange(len(rows)).repeat_interleave(torch.tensor([len(some) for some in rows]))


def rows_of(found: Set, task: Task) -> Iterator[Row]:
    """What each score is worth on a task, and each promise."""
    for name, score in _of_features(task).items():
        yield _auroc(found, "features", task, name, score)
    for head in HEADS:
        yield from _of_head(found, task, head)


def _of_features(task: Task) -> dict[str, Score]:
    """Scores that need no head."""
    unit = F.normalize(task.support, dim=1)
    return {"cosine to the nearest image": lambda x: (F.normalize(x, dim=1) @ unit.T).max(1).values}


def _of_head(found: Set, task: Task, name: str) -> Iterator[Row]:
    learner = load_recipe(name).learner
    way = int(task.labels.max()) + 1
    for negatives in (False, True):
        features, labels = task.support, task.labels
        classes = [str(label) for label in range(way)]
        if negatives:
            features = torch.cat([features, task.negatives])
            labels = torch.cat([labels, torch.full((len(task.negatives),), way)])
            classes.append(UNKNOWN)
        method = learner.closed_form
        assert method
        held = left_out_one_by_one(method, features, labels, len(classes))
        assert isinstance(held, HeldOut)
        factor = sharpening_of(held, learner, features.shape[1])
        head = method.head(features, labels, len(classes)).sharpened(factor)
        unknown = way if negatives else None
        extra = ", negatives" if negatives else ""
        for kind in [learner.known_score(True)] if negatives else ["energy", "probability"]:
            yield _auroc(found, name, task, kind + extra, _score(head.logits, kind, unknown))
        kept = scores_of(held, learner, factor, classes)
        score = known_scores(head.logits(task.known), kept.score, unknown)
        for share in REFUSED:
            if len(kept.known) >= images_to_refuse(share):
                came = float((score < refusal_threshold(torch.tensor(kept.known), share)).double().mean())
                yield Row(found.name, name, task.shots, f"refuse {share:g}{extra}", came=came)
        probabilities = head.logits(task.known).softmax(1)
        images = sum(map(len, kept.nonconformity))
        for coverage in [] if negatives else [each for each in COVERED if images >= images_for_sets(each)]:
            thresholds = set_thresholds(kept.nonconformity, coverage)
            inside = label_sets(probabilities, thresholds)
            came = float(inside.gather(1, task.true[:, None]).double().mean())
            which = "by class" if thresholds.by_class else "together"
            size = float(inside.sum(1).double().mean())
            yield Row(found.name, name, task.shots, f"sets {coverage:g}, {which}", came=came, size=size)


def _score(logits: Score, kind: KnownScore, unknown: int | None) -> Score:
    return lambda x: known_scores(logits(x), kind, unknown)


def _auroc(found: Set, head: str, task: Task, what: str, score: Score) -> Row:
    known = score(task.known)
    near, far, alike = (
        float(roc_auc_score([1] * len(known) + [0] * len(other), torch.cat([known, score(other)])))
        for other in (task.near, task.far, task.alike)
    )
    return Row(found.name, head, task.shots, what, near=near, far=far, alike=alike)


def table(rows: Sequence[Row]) -> str:
    """Two tables: of scores, and of promises."""
    lines = ["| head | score | near: chose nothing | near: chose | alike | alike: chose | far | far: chose |"]
    lines.append("|---" * 8 + "|")
    for head, what in sorted({(each.head, each.what) for each in rows if each.near is not None}):
        some = [each for each in rows if (each.head, each.what) == (head, what)]
        cells = [_mean(some, chose, lambda each: each.near) for chose in (False, True)]
        cells += [_mean(some, chose, lambda each: each.alike) for chose in (False, True)]
        cells += [_mean(some, chose, lambda each: each.far) for chose in (False, True)]
        lines.append(f"| {' | '.join([head, what, *(f'{cell:.3f}' for cell in cells)])} |")
    lines += ["", "| promise | tasks x heads | came: chose nothing | came: chose | labels in a set |", "|---" * 5 + "|"]
    for what in sorted({each.what for each in rows if each.came is not None}):
        some = [each for each in rows if each.what == what]
        cells = [f"{100 * _mean(some, chose, lambda each: each.came):.1f} %" for chose in (False, True)]
        sizes = [each.size for each in some if each.size is not None]
        lines.append(f"| {what} | {len(some)} | {' | '.join(cells)} | {_size(sizes)} |")
    return "\n".join([*lines, "", *_refused(rows)])


def _refused(rows: Sequence[Row]) -> Iterator[str]:
    """The share of known pictures that was refused, by images a class and by head; chose nothing / chose."""
    promises = [f"refuse {share:g}{extra}" for extra in ("", ", negatives") for share in REFUSED]
    yield f"| refused, in % | {' | '.join(promise.removeprefix('refuse ') for promise in promises)} |"
    yield "|---" * (1 + len(promises)) + "|"
    groups = {f"{shots} images a class": [each for each in rows if each.shots == shots] for shots in SHOTS}
    groups |= {head: [each for each in rows if each.head == head] for head in HEADS}
    for title, group in groups.items():
        cells = [_both([each for each in group if each.what == promise]) for promise in promises]
        yield f"| {title} | {' | '.join(cells)} |"


def _both(rows: Sequence[Row]) -> str:
    """The share that was refused on the sets that chose nothing, and on the others."""
    if not rows:
        return "-"
    return " / ".join(f"{100 * _mean(rows, chose, lambda each: each.came):.1f}" for chose in (False, True))


def _size(sizes: Sequence[float]) -> str:
    return f"{sum(sizes) / len(sizes):.1f}" if sizes else "-"


def _mean(rows: Sequence[Row], chose: bool, figure: Callable[[Row], float | None]) -> float:
    found = [value for each in rows if (each.set in CHOSE) == chose and (value := figure(each)) is not None]
    return sum(found) / len(found) if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--tasks", type=int, default=40, help="of each set")
    run.add_argument("-o", "--output", type=Path, required=True)
    add_backbone(run)
    commands.add_parser("table").add_argument("file", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.command == "table":
        print(table([Row(**each) for each in json.loads(asked.file.read_text())]))
        return
    rows: list[Row] = []
    sets = shared_sets(list(SETS), asked.backbone, asked.weights)
    for place, found in enumerate(sets):
        other = sets[(place + 3) % len(sets)]
        for task in tasks(found, other, asked.tasks):
            rows += rows_of(found, task)
        asked.output.write_text(json.dumps([asdict(each) for each in rows]) + "\n")
        print(found.name, len(rows), flush=True)


if __name__ == "__main__":
    main()
