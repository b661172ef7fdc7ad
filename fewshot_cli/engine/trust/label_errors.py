"""Faults of a support set, by its frozen features: wrong labels, confused classes, harmful pictures, bursts.

Everything is judged by cosines to prototypes, around the mean of all features, that never saw the picture in question.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.defaults import COSINE_SCALE
from fewshot_cli.engine.trust.metrics import best_sharpening, wilson

WRONG = 0.3
"""The share of labels that are taken to be wrong before anything is seen: it has the best harmonic mean of precision
and recall where one label in ten is flipped, see docs/adapting.md."""
ROUNDS = 3
"""How often prototypes are made anew of what seems labelled right; nothing moves much afterwards."""
TOLD_APART = 0.7
"""The share of two classes' pictures that has to be told apart from the other class."""
HURTS = 3
"""Other pictures that are answered right without one that hurts: two are so by chance in every other support set."""
ONE_BURST = 0.85
"""The cosine from which on two pictures are of one burst."""


@dataclass(frozen=True)
class WrongLabel:
    """A picture, by its row, that is of another class with this probability, most likely of `label`."""

    row: int
    probability: float
    label: int


@dataclass(frozen=True)
class ConfusedClasses:
    """Two classes whose `n` pictures can't be told apart: the share that is nearer to its own class."""

    first: int
    second: int
    share: float
    n: int


@dataclass(frozen=True)
class HarmfulPicture:
    """A picture, by its row, without which `better` more of the others are answered right."""

    row: int
    better: int


def wrong_labels(features: Tensor, labels: Tensor, way: int) -> list[WrongLabel]:
    """The pictures whose label is more likely wrong than right, the likeliest first.

    Prototypes are weighted by how likely each picture's label is right; a class that a picture is alone in can't
    be judged. `features` are `(n, dim)`, `labels` `(n,)`.
    """
    x = _directions(features)
    right = x.new_ones(len(x))
    alone = torch.bincount(labels, minlength=way)[labels] == 1
    if bool(alone.all()) or way < 2:
        return []
    odds, log_p = right, x
    for _ in range(ROUNDS):
        logits = _cosines_without_itself(x, labels, way, right)
        log_p = (logits * best_sharpening(logits[~alone], labels[~alone])).log_softmax(1)
        own = log_p.gather(1, labels[:, None]).squeeze(1)
        others = log_p.scatter(1, labels[:, None], -torch.inf)
        prior = torch.log(torch.tensor(WRONG / (1 - WRONG) / (way - 1), dtype=x.dtype))
        odds = (others.logsumexp(1) - own + prior).masked_fill(alone, -torch.inf)
        right = torch.sigmoid(-odds)
    best = log_p.scatter(1, labels[:, None], -torch.inf).argmax(1)
    rows = (odds > 0).nonzero().squeeze(1)
    rows = rows[odds[rows].argsort(descending=True)]
    return [WrongLabel(row, float(torch.sigmoid(odds[row])), int(best[row])) for row in rows.tolist()]


def classes_alike(features: Tensor, labels: Tensor, way: int) -> list[ConfusedClasses]:
    """The pairs of classes whose pictures are not told apart, the worst first; a class with one picture has none.

    Fewer than `TOLD_APART` are nearer to their own class, and so few that it may be by chance that it is over half.
    """
    x = _directions(features)
    logits = _cosines_without_itself(x, labels, way)
    nearer = (logits > logits.gather(1, labels[:, None])).to(x)  # than to its own class
    strays = F.one_hot(labels, way).to(x).T @ nearer
    counts = torch.bincount(labels, minlength=way)
    pairs = torch.triu(strays + strays.T > (1 - TOLD_APART) * (counts[:, None] + counts), diagonal=1)
    found = []
    for first, second in pairs.nonzero().tolist():
        n = int(counts[first] + counts[second])
        share = wilson(n - round(float(strays[first, second] + strays[second, first])), n)
        if min(int(counts[first]), int(counts[second])) > 1 and share.low <= 0.5:
            found.append(ConfusedClasses(first, second, share.mean, n))
    return sorted(found, key=lambda pair: pair.share)


def hurting(features: Tensor, labels: Tensor, way: int) -> list[HarmfulPicture]:
    """The pictures without which the answers about `HURTS` or more of the others are right, and wrong with them."""
    x = _directions(features)
    logits = _cosines_without_itself(x, labels, way)
    right = logits.argmax(1) == labels
    members = F.one_hot(labels, way).to(x)
    sums, counts = members.T @ x, torch.bincount(labels, minlength=way)
    found = []
    for row, label in enumerate(labels.tolist()):
        if counts[label] < 3:  # without it one would be left, which can't be asked about
            continue
        without = sums[label] - x[row]
        changed = logits.clone()
        changed[:, label] = COSINE_SCALE * (x @ F.normalize(without, dim=0))
        own = (labels == label).nonzero().squeeze(1)
        changed[own, label] = COSINE_SCALE * (x[own] * F.normalize(without - x[own], dim=1)).sum(1)
        others = torch.arange(len(labels)) != row
        better = int((changed.argmax(1) == labels)[others].sum()) - int(right[others].sum())
        if better >= HURTS:
            found.append(HarmfulPicture(row, better))
    return sorted(found, key=lambda one: -one.better)


def bursts(features: Tensor) -> list[list[int]]:
    """The rows of pictures that show nearly the same, as photos of one burst do: groups of two and more.

    What is left out of learning has its twin in what is learned from, so that an estimate of accuracy is too good.
    """
    x = _directions(features)
    close = x @ x.T > ONE_BURST
    group = list(range(len(x)))

    def first(row: int) -> int:
        while group[row] != row:
            row = group[row]
        return row

    for one, other in close.triu(1).nonzero().tolist():
        group[max(first(one), first(other))] = min(first(one), first(other))
    members: dict[int, list[int]] = {}
    for row in range(len(x)):
        members.setdefault(first(row), []).append(row)
    return [rows for rows in members.values() if len(rows) > 1]


def nearest(features: Tensor, row: int, count: int) -> list[tuple[int, float]]:
    """The rows most like one, with their cosines, the nearest first."""
    x = _directions(features)
    cosines = (x @ x[row]).index_fill(0, torch.tensor([row]), -torch.inf)
    best = cosines.topk(min(count, len(x) - 1))
    return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _directions(features: Tensor) -> Tensor:
    """Features of unit norm around the mean of all: what all pictures have in common tells no class."""
    f = features.detach().cpu().double()
    return F.normalize(f - f.mean(0), dim=1)


def _cosines_without_itself(x: Tensor, labels: Tensor, way: int, weights: Tensor | None = None) -> Tensor:
    """`COSINE_SCALE` times the cosines `(n, way)` of pictures and prototypes, each one's own made without it."""
    weights = x.new_ones(len(x)) if weights is None else weights
    sums = (F.one_hot(labels, way).to(x) * weights[:, None]).T @ x
    logits = x @ F.normalize(sums, dim=1).T
    own = F.normalize(sums[labels] - weights[:, None] * x, dim=1)
    logits[torch.arange(len(x)), labels] = (x * own).sum(1)
    return COSINE_SCALE * logits
