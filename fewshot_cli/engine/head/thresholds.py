"""From scores of marks to labels: a probability for each class, and the threshold above which an image has it.

`marks` are `(n, way)`, one where an image has the label and zero where it has not; `probabilities` have the same shape.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

GROUPS = 50
"""In so many groups at most are images left out of the choice of thresholds."""

PULL = 5
"""As many images the common threshold counts for, beside a class's own: the best of 0, 5, 20 and all with 2 or 5."""


def with_the_share_of_all(scores: Tensor, marks: Tensor) -> Tensor:
    """Leave-one-out scores `(n, way)` as if the share of images with each label were that of all of them.

    A regression starts from the mean of its marks. Without an image of a label that is lower, and without another image
    higher: so with few images the left-out score would say the opposite of the mark, whatever is in the picture.
    """
    marks = marks.to(scores)
    share = marks.mean(0)
    return scores + share - (marks.sum(0) - marks) / (len(marks) - 1)


def platt_scaling(scores: Tensor, marks: Tensor) -> tuple[float, float]:
    """The factor and offset with which sigmoid(factor x score + offset) is the likeliest for all marks together.

    Platt (1999), with his targets a little inside of 0 and 1, so that marks that are separated leave both finite.
    Differs from the paper: one pair serves all classes, since few have images enough for their own.
    """
    scores, marks = scores.detach().double().cpu().flatten(), marks.double().cpu().flatten()
    ones = float(marks.sum())
    high, low = (ones + 1) / (ones + 2), 1 / (len(marks) - ones + 2)
    targets = torch.where(marks > 0, high, low)
    params = torch.tensor([4.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([params], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(params[0] * scores + params[1], targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    factor, offset = params.tolist()
    return max(factor, 1e-3), offset


def chosen_thresholds(probabilities: Tensor, marks: Tensor) -> Tensor:
    """The threshold `(way,)` of each class: its own of the greatest F1, pulled towards the one that is best for all.

    As logits the mean of both, its own weighted by the images of the class and the other by `PULL`: few images say
    little of a threshold. A class of a single image takes the one that is best for all marks together.
    """
    common = common_threshold(probabilities, marks)
    own = greatest_f1(probabilities, marks, common.expand(marks.shape[1]))
    n = marks.sum(0)
    weight = torch.where(n > 1, n, 0) / (torch.where(n > 1, n, 0) + PULL)
    return (weight * own.logit() + (1 - weight) * common.logit()).sigmoid()


def common_threshold(probabilities: Tensor, marks: Tensor) -> Tensor:
    """The threshold `(1,)` of the greatest F1 on all marks together."""
    return greatest_f1(probabilities.reshape(-1, 1), marks.reshape(-1, 1), probabilities.new_full((1,), 0.5))


def greatest_f1(probabilities: Tensor, marks: Tensor, wanted: Tensor) -> Tensor:
    """The threshold `(way,)` of the greatest F1 of each column, half-way between two probabilities of it; of equals,
    the nearest to `wanted` `(way,)`."""
    ordered, order = probabilities.sort(0, descending=True)
    found = marks.gather(0, order).cumsum(0)  # right answers, when the first k have the label
    answered = torch.arange(1, len(marks) + 1, device=marks.device).unsqueeze(1)
    f1 = 2 * found / (answered + marks.sum(0))
    below = torch.cat([ordered[1:], torch.zeros_like(ordered[:1])])
    f1 = f1.masked_fill(ordered == below, -1)  # no threshold parts equals
    cuts = (ordered + below) / 2
    away = (cuts - wanted).abs().masked_fill(f1 < f1.max(0).values - 1e-9, torch.inf)
    return cuts.gather(0, away.argmin(0, keepdim=True)).squeeze(0)


def above(probabilities: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Whether an image has each label `(..., way)`: the probability is above the threshold, both in float64."""
    return probabilities.double() > torch.tensor(thresholds, dtype=torch.float64, device=probabilities.device)


def answers_by_thresholds_of_others(probabilities: Tensor, marks: Tensor) -> Tensor:
    """Answers `(n, way)` bool, of each image by thresholds that were chosen without it."""
    groups = torch.arange(len(marks), device=marks.device) % min(GROUPS, len(marks))
    answers = torch.zeros_like(marks, dtype=torch.bool)
    for group in range(min(GROUPS, len(marks))):
        asked = groups == group
        answers[asked] = probabilities[asked] > chosen_thresholds(probabilities[~asked], marks[~asked])
    return answers
