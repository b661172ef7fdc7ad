"""What accuracy to expect, from the support set alone: no image is ever judged by a head that was fitted on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Run, Support, Watch, unwatched
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.trust.expected import (
    SLOPE,
    SLOPE_AHEAD,
    Measured,
    expected,
    held_out_share,
    measured_slope,
    typical_slope,
)
from fewshot_cli.engine.trust.metrics import Interval, wilson
from fewshot_cli.engine.trust.sharpening import sharpening
from fewshot_cli.engine.trust.subsets import PartAnswers, content_order, enough_parts, half, one_in, parts
from fewshot_cli.engine.trust.unknown import GROWTH, grown, known_scores
from fewshot_cli.formats.delta.header import HeldOutScores
from fewshot_cli.images.sources.class_folders import UNKNOWN
from fewshot_cli.jobs.progress import Progress
from fewshot_cli.methods.base import ClosedFormMethod, Learner


@dataclass(frozen=True)
class HeldOut:
    """Logits `(n, way)` of images by heads that never saw them, their true labels, and how that was done.

    `parts` are answers of heads that some images of every class were kept from, so that no class is worse off. `kept`
    are the logits that rounding leaves, where these were asked for. `known` are logits that say how known an image is,
    and `lost` `(n,)` is ln(images of its class in all / learned from), by which that is too low. `expected` is the
    accuracy on new images, classes being as frequent as in the support set, and `with_more` that with `MORE` more of
    each class.
    """

    logits: Tensor
    labels: Tensor
    parts: PartAnswers
    how: str
    known: Tensor
    lost: Tensor
    expected: Interval
    with_more: Interval
    kept: Tensor | None = None

    @property
    def accuracy(self) -> Interval:
        """The share answered right, with its 95 % interval."""
        return self._share(self.logits)

    @property
    def accuracy_kept(self) -> Interval | None:
        """The share answered right after rounding, with its 95 % interval."""
        return None if self.kept is None else self._share(self.kept)

    def _share(self, logits: Tensor) -> Interval:
        return wilson(int((logits.argmax(1) == self.labels).sum()), len(self.labels))


ALONE = "one image per class: with it left out nothing of its class is left to learn from"

MORE = 5
"""For how many more images of each class an accuracy is foretold."""

AT_ONCE = 5  # parts of a support set that are solved at once

Rounding = Callable[[Adapted], Adapted]
"""What a file makes of what was learned, both on the backbone that it was learned on; the head stays."""


def sharpening_of(held: HeldOut, learner: Learner, dim: int) -> float:
    """The factor for the head of a learner on `dim` features that makes its probabilities mean something."""
    answers, images = held.parts, len(held.labels)
    usual = learner.usual_sharpening(images, answers.logits.shape[1], dim)
    return sharpening(answers.logits, answers.labels, images, usual)


def scores_of(held: HeldOut, learner: Learner, factor: float, classes: Sequence[str]) -> HeldOutScores:
    """What a file keeps of held-out answers, made so much sharper, for refusing pictures and for label sets."""
    unknown = classes.index(UNKNOWN) if UNKNOWN in classes else None
    score = learner.known_score(negatives=unknown is not None)
    known = known_scores(factor * held.known, score, unknown)
    true_class = (factor * held.parts.logits).softmax(1).gather(1, held.parts.labels[:, None]).squeeze(1)
    unlike, labels = held.parts.of_each_image(1 - true_class)
    of_classes = held.labels != (-1 if unknown is None else unknown)
    growth = GROWTH[score] * float(held.lost[of_classes].mean())
    return HeldOutScores(
        score=score,
        known=_sorted(grown(known[of_classes], growth)),
        nonconformity=tuple(_sorted(unlike[labels == label]) for label in range(len(classes))),
    )


def _sorted(scores: Tensor) -> tuple[float, ...]:
    return tuple(round(score, 4) for score in scores.sort().values.tolist())


@dataclass(frozen=True)
class Adaptation:
    """A learner, the backbone and the support set that it adapts to, and the seed."""

    learner: Learner
    backbone: Backbone
    support: Support
    seed: int

    def learned(self, support: Support | None = None, watch: Watch = unwatched) -> Adapted:
        """What is learned from all of the support set, or from the part of it that is given."""
        return self.learner.adapt(self.backbone, self.support if support is None else support, Run(self.seed, watch))


def held_out(adaptation: Adaptation, folds: int, progress: Progress, rounding: Rounding | None = None) -> HeldOut | str:
    """Held-out answers on the support set, also those after `rounding`, or the reason why there can be none.

    Exact leave-one-out where the method has it in closed form, else `folds`-fold. A class with a single image can't be
    left without it: that image is always learned from and never asked about.
    """
    support, closed_form = adaptation.support, adaptation.learner.closed_form
    if closed_form:
        found = left_out_one_by_one(closed_form, support.features, support.labels, support.way)
        if rounding is None or isinstance(found, str):
            return found
        stored = Model(adaptation.backbone, rounding(adaptation.learned()))
        kept = left_out_one_by_one(closed_form, stored.features_of(support), support.labels, support.way)
        return replace(found, kept=kept.logits) if isinstance(kept, HeldOut) else found
    if int(torch.bincount(support.labels).max()) < 2:
        return ALONE
    if folds < 2:
        return "no images were left out to ask about (--folds 0)"
    return in_folds(adaptation, folds, progress, rounding)


def left_out_one_by_one(method: ClosedFormMethod, features: Tensor, labels: Tensor, way: int) -> HeldOut | str:
    """What heads fitted to all images but one say of that one, exactly, or the reason why there can be none.

    What they promise rests on heads fitted without one image of each class, so that no class is worse off than others.
    """
    of_class = torch.bincount(labels, minlength=way)[labels]
    tested = of_class > 1
    if not bool(tested.any()):
        return ALONE
    logits = method.leave_one_out(features, labels, way)
    answers, most = _without_some(method, features, labels, one_in(labels, way))
    _, fewer = _without_some(method, features, labels, half(labels, way))
    how = f"images of each class left out in turn, {int(tested.sum())} images"
    known = method.known_left_out(logits, labels)[tested]
    lost = (of_class / (of_class - 1))[tested].log()
    return HeldOut(logits[tested], labels[tested], answers, how, known, lost, *_promised(most, fewer, labels))


def _without_some(
    method: ClosedFormMethod, features: Tensor, labels: Tensor, out: Tensor
) -> tuple[PartAnswers, Measured]:
    """Answers of heads that `out` `(way,)` images of each class were kept from, and the share that is right."""
    order = content_order(features)
    features, labels = features[order], labels[order]
    count, way = enough_parts(labels, out), len(out)
    learned, tested = (rows.to(labels.device) for rows in parts(labels, out, count, seed=0))
    logits = [
        method.head(features[some], labels[some], way).logits(features[others])
        for some, others in zip(torch.split(learned, AT_ONCE), torch.split(tested, AT_ONCE), strict=True)
    ]
    answers = PartAnswers(torch.cat(logits).flatten(0, 1), labels[tested].flatten(), tested.flatten())
    kept = torch.bincount(labels, minlength=way) - out
    return answers, held_out_share(answers.right.cpu(), answers.images.cpu(), labels.cpu(), kept.cpu())


def _promised(most: Measured, fewer: Measured | None, labels: Tensor) -> tuple[Interval, Interval]:
    """The accuracy to expect, and that with `MORE` more images of each class."""
    slopes = [typical_slope(mean) for mean in (SLOPE, SLOPE_AHEAD)]
    now, ahead = [measured_slope(most, fewer, slope) for slope in slopes] if fewer else slopes
    counts = torch.bincount(labels)[labels].float()
    return expected(most, now, most.full_size), expected(most, ahead, float((counts + MORE).log().mean()))


def in_folds(adaptation: Adaptation, folds: int, progress: Progress, rounding: Rounding | None = None) -> HeldOut:
    """Answers about each fold by what was learned from the others, also where a formula could leave out single images.

    `folds`, two or more, are no more than the largest class has images; some class has two. The seed decides them.
    """
    support = adaptation.support
    folds = min(folds, int(torch.bincount(support.labels).max()))
    fold_of = _fold_of_each(support, folds, adaptation.seed)
    logits = support.features.new_zeros(len(support), support.way)
    kept = logits.clone()
    with progress.track("estimating accuracy") as advance:
        for fold in range(folds):
            tested = (fold_of == fold).nonzero().squeeze(1)
            if len(tested):
                adapted = adaptation.learned(support.subset((fold_of != fold).nonzero().squeeze(1)))
                left_out = support.subset(tested)
                logits[tested] = Model(adaptation.backbone, adapted).logits_of(left_out)
                if rounding:
                    kept[tested] = Model(adaptation.backbone, rounding(adapted)).logits_of(left_out)
            advance(fold + 1, folds)
    tested = fold_of >= 0
    how = f"{folds}-fold, {int(tested.sum())} images"
    logits, labels = logits[tested], support.labels[tested]
    rows = tested.nonzero().squeeze(1)
    counts = torch.bincount(support.labels, minlength=support.way).cpu()
    learned = (counts * (1 - 1 / folds)).clamp(min=1)
    answers = PartAnswers(logits, labels, rows)
    most = held_out_share(answers.right.cpu(), rows.cpu(), support.labels.cpu(), learned)
    lost = (counts / learned).log()[labels.cpu()] / 2  # all classes lost, and not one alone
    promised = _promised(most, None, support.labels)
    return HeldOut(logits, labels, answers, how, logits, lost, *promised, kept[tested] if rounding else None)


def _fold_of_each(support: Support, folds: int, seed: int) -> Tensor:
    """The fold `(support,)` in which each image is asked about; -1 for the only one of a class.

    Classes are spread evenly over the folds.
    """
    rng = torch.Generator().manual_seed(seed)
    fold_of = torch.full((len(support),), -1)
    first = 0
    for label in range(support.way):
        members = (support.labels.cpu() == label).nonzero().squeeze(1)
        if len(members) > 1:
            shuffled = members[torch.randperm(len(members), generator=rng)]
            fold_of[shuffled] = (first + torch.arange(len(members))) % folds
            first += len(members)
    return fold_of.to(support.labels.device)
