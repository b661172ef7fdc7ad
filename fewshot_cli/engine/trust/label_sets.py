"""How good answers of several labels an image are: exact match, and precision, recall and F1 of each class.

`answers` and `marks` are `(n, way)` bool: which labels each image gets, and which it has.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class OfClass:
    """Of one class: how many images have it, how many get it, and how many of these rightly."""

    n: int
    answered: int
    right: int

    @property
    def precision(self) -> float | None:
        """The share of the images which get the label that have it; None where none gets it."""
        return self.right / self.answered if self.answered else None

    @property
    def recall(self) -> float | None:
        """The share of the images which have the label that get it; None where none has it."""
        return self.right / self.n if self.n else None

    @property
    def f1(self) -> float | None:
        """The harmonic mean of both, 0 where nothing is right; None where no image has the label or gets it."""
        both = self.n + self.answered
        return 2 * self.right / both if both else None


def by_class(answers: Tensor, marks: Tensor) -> list[OfClass]:
    """The counts of every class."""
    counts = marks.sum(0), answers.sum(0), (marks & answers).sum(0)
    return [OfClass(*each) for each in zip(*(count.tolist() for count in counts), strict=True)]


def exact_matches(answers: Tensor, marks: Tensor) -> int:
    """How many images get just the labels that they have."""
    return int((answers == marks).all(1).sum())


def macro_f1(classes: list[OfClass]) -> float:
    """The mean F1 of the classes that some image has or gets."""
    known = [each.f1 for each in classes if each.f1 is not None]
    return sum(known) / len(known) if known else 0.0
