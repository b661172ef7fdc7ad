"""Which unlabelled picture's label would teach most: the one whose label is expected to change answers most.

Active learning by expected model change (Settles, 2009), which for ridge is a formula. With known features X and
k(a, b) = aᵀ (XᵀX + strength I)⁻¹ b, a label y of picture x moves the scores of picture u by
k(u, x) / (1 + k(x, x)) · (y - score of x). How far y is from the score depends on how unsure the answer about x is, and
another score of u matters where the answer about u is unsure:

    worth of x = unsure(x) · Σ_u unsure(u) k(u, x)² / (1 + k(x, x)),    unsure = 1 - Σ_c p_c².

Pictures are chosen one after another, each as if the ones before had their labels: k depends on no label, so the next
one is not a twin of the last.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.defaults import RIDGE_STRENGTH
from fewshot_cli.engine.head.linear import typical_norm

MOST_OTHERS = 2000
"""Pictures that a change is summed over; of more, evenly chosen ones."""
ALIKE = 0.5
"""The correlation from which on a picture's score follows another's."""


@dataclass(frozen=True)
class LabelWorth:
    """A picture of the pool whose label to ask for, by its row: what the label is worth, and how many others follow.

    `worth` is as defined above; of those others, of which there are at most `MOST_OTHERS`, the score correlates with
    its own by more than `ALIKE`.
    """

    row: int
    worth: float
    alike: int


def worthiest_labels(known: Tensor, pool: Tensor, probabilities: Tensor, count: int) -> list[LabelWorth]:
    """The `count` pictures whose labels would teach most, the first the most.

    `known` are features `(labelled, dim)`, `pool` `(n, dim)` those of the pictures without a label, and `probabilities`
    `(n, way)` what the classifier says of these.
    """
    some = torch.linspace(0, len(pool) - 1, min(len(pool), MOST_OTHERS)).round().long()
    kernel = _Kernel.of(known, pool)
    between, own = kernel.between(pool[some], pool), kernel.own(pool)
    unsure = 1 - probabilities.double().square().sum(1)
    correlated = (between.square() > ALIKE**2 * own * own[some, None]).sum(0)
    left = torch.ones(len(pool), dtype=torch.bool)
    chosen: list[LabelWorth] = []
    rows: list[tuple[Tensor, Tensor]] = []  # of those chosen: k(x, ·), and 1 + k(x, x)
    for _ in range(min(count, len(pool))):
        worth = unsure * (unsure[some] @ between.square()) / (1 + own)
        best = int(worth.masked_fill(~left, -torch.inf).argmax())
        chosen.append(LabelWorth(best, float(worth[best]), int(correlated[best]) - int(best in some)))
        left[best] = False
        row = kernel.between(pool[best : best + 1], pool)[0]
        for earlier, scale in rows:
            row = row - earlier[best] * earlier / scale
        scale = 1 + row[best]
        rows.append((row, scale))
        between = between - torch.outer(row[some], row) / scale
        own = own - row.square() / scale
    return chosen


@dataclass(frozen=True)
class _Kernel:
    """k(a, b), for features of typical norm 1 around a common mean."""

    x: Tensor
    mean: Tensor
    norm: Tensor
    solved: Tensor

    @classmethod
    def of(cls, known: Tensor, pool: Tensor) -> "_Kernel":
        norm = typical_norm(known)
        mean = torch.cat([known, pool]).double().mean(0)
        x = (known.double() - mean) / norm
        gram = x @ x.T + RIDGE_STRENGTH * torch.eye(len(x)).to(x)
        return cls(x, mean, norm, torch.linalg.solve(gram, x))

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """k of each of a `(n, dim)` with each of b `(m, dim)`, `(n, m)`."""
        a, b = self._centred(a), self._centred(b)
        return (a @ b.T - (a @ self.x.T) @ (self.solved @ b.T)) / RIDGE_STRENGTH

    def own(self, a: Tensor) -> Tensor:
        """k of each with itself, `(n,)`."""
        a = self._centred(a)
        return (a.square().sum(1) - ((a @ self.x.T) * (a @ self.solved.T)).sum(1)) / RIDGE_STRENGTH

    def _centred(self, a: Tensor) -> Tensor:
        return (a.double() - self.mean) / self.norm
