"""What is learned of images with several labels: a head, a threshold for each label, and what to expect of both."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.thresholds import (
    answers_by_thresholds_of_others,
    chosen_thresholds,
    platt_scaling,
    with_the_share_of_all,
)
from fewshot_cli.engine.trust.expected import SLOPE, Measured, typical_slope
from fewshot_cli.engine.trust.expected import expected as expected_accuracy
from fewshot_cli.engine.trust.label_sets import OfClass, by_class, exact_matches
from fewshot_cli.formats.delta.file import Expected
from fewshot_cli.images.sources.label_sets import LabelSets
from fewshot_cli.methods.base import MarkingMethod


def marks_of(labels: Sequence[str], sets: LabelSets, names: Sequence[str]) -> Tensor:
    """Marks `(support, way)` int64: one where an image has the label."""
    return torch.tensor([[int(name in sets[label]) for name in names] for label in labels])


@dataclass(frozen=True)
class LearnedMarks:
    """A head whose logits are each label's own, and the probability of each class above which an image has it.

    `marks` `(support, way)` are what is true and `answers` what was said of each image by a head, and by thresholds,
    that were found without it.
    """

    head: Head
    thresholds: Tensor
    marks: Tensor
    answers: Tensor

    @property
    def by_class(self) -> list[OfClass]:
        """The counts of every class, held out."""
        return by_class(self.answers, self.marks.bool())

    @property
    def expected(self) -> Expected:
        """The exact match to expect on new images: the share of those left out, corrected as that of single labels is.

        An image is one of as many as its labels have on average, and one fewer where it is left out; half an image is
        what a label's only image leaves.
        """
        marks = self.marks.double()
        n, counts = len(marks), marks.sum(0)
        weights = marks / marks.sum(1, keepdim=True)
        learned, full = (float((weights @ size.log()).mean()) for size in ((counts - 1).clamp(min=0.5), counts))
        share = exact_matches(self.answers, self.marks.bool()) / n
        found = expected_accuracy(Measured(share, n, learned, full), typical_slope(SLOPE), full)
        how = f"all labels of an image right, leave-one-out, exact, {n} images"
        return Expected(mean=found.mean, low=found.low, high=found.high, how=how)


def learn_marks(method: MarkingMethod, features: Tensor, marks: Tensor) -> LearnedMarks:
    """The head fitted to all images, with probabilities and thresholds that held-out scores say.

    Where no label has two images the thresholds are those of all labels together.
    """
    scores = with_the_share_of_all(method.marks_left_out(features, marks), marks)
    factor, offset = platt_scaling(scores, marks)
    head = method.marks_head(features, marks).sharpened(factor)
    head = replace(head, bias=head.bias + offset)
    probabilities = (factor * scores + offset).sigmoid()
    answers = answers_by_thresholds_of_others(probabilities, marks)
    return LearnedMarks(head, chosen_thresholds(probabilities, marks), marks, answers)
