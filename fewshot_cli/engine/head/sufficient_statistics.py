"""What closed-form heads need to know of labelled features: sums to which more images and classes can be added."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.head.linear import power_of_two_near


@dataclass(frozen=True)
class Moments:
    """The sufficient statistics of images seen so far, in float64; the images themselves are never needed again.

    `counts` `(way,)` and `sums` `(way, dim)` of each class, and `second` `(dim, dim)`, the sum of f fᵀ over all images.
    """

    counts: Tensor
    sums: Tensor
    second: Tensor

    @classmethod
    def none(cls, dim: int) -> "Moments":
        """The moments of no image and no class."""
        empty = torch.zeros(0, dim, dtype=torch.float64)
        return cls(counts=empty.sum(1), sums=empty, second=empty.T @ empty)

    def add(self, features: Tensor, labels: Tensor, way: int) -> "Moments":
        """The moments with images of features `(n, dim)` and labels `(n,)` too; `way` counts all classes, old and new.

        In whatever order and portions images are added, the result is the same up to rounding. Raises ValueError where
        `way` is less than the classes seen before.
        """
        new = way - len(self.counts)
        if new < 0:
            raise ValueError(f"{way} classes can't hold the {len(self.counts)} seen before")
        f = features.double()
        members = F.one_hot(labels, way).to(f)
        return Moments(
            F.pad(self.counts, (0, new)).to(f) + members.sum(0),
            F.pad(self.sums, (0, 0, 0, new)).to(f) + members.T @ f,
            self.second.to(f) + f.T @ f,
        )

    @property
    def n(self) -> Tensor:
        """The number of images."""
        return self.counts.sum()

    @property
    def mean(self) -> Tensor:
        """The mean feature `(dim,)` of all images."""
        return self.sums.sum(0) / self.n

    @property
    def class_means(self) -> Tensor:
        """Prototypes `(way, dim)`. A class without an image gets zeros."""
        return self.sums / self.counts.clamp(min=1).unsqueeze(1)

    @property
    def class_deviations(self) -> Tensor:
        """For each class, the sum over its images of feature - mean of all images, `(way, dim)`."""
        return self.sums - torch.outer(self.counts, self.mean)

    # float64 keeps 16 digits, of which these two differences lose four where the mean is 100 times the spread.

    @property
    def scatter(self) -> Tensor:
        """The sum of d dᵀ, `(dim, dim)`, over all images, d being feature - mean of all images."""
        return self.second - self.n * torch.outer(self.mean, self.mean)

    @property
    def scatter_within(self) -> Tensor:
        """The sum of d dᵀ, `(dim, dim)`, over all images, d being feature - mean of its class."""
        return self.second - self.sums.T @ self.class_means

    @property
    def typical_norm(self) -> Tensor:
        """What `heads.typical_norm` says of all images."""
        return power_of_two_near((self.second.trace() / self.n).sqrt())
