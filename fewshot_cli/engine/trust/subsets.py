"""Parts of a support set that leave some images of every class out, so that no class is worse off than another."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SHARES = 10  # of a large class, one in so many is left out at a time
COLUMNS = 16  # features that tell images apart
PARTS = 20  # at least as many parts are answered about


@dataclass(frozen=True)
class PartAnswers:
    """Logits `(m, way)` about `images` `(m,)`, of which an image may be asked about several times, and its label."""

    logits: Tensor
    labels: Tensor
    images: Tensor

    @property
    def right(self) -> Tensor:
        """Whether each answer is right, `(m,)`."""
        return self.logits.argmax(1) == self.labels

    def of_each_image(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of values `(m,)` of each image that was asked about, `(n,)`, and the image's label."""
        image, counts = torch.unique(self.images, return_inverse=True, return_counts=True)[1:]
        sums = values.new_zeros(len(counts)).index_add_(0, image, values)
        return sums / counts, self.labels.new_zeros(len(counts)).index_copy_(0, image, self.labels)


def content_order(features: Tensor) -> Tensor:
    """Rows of features `(support, dim)` in an order that follows from the features in float16, not from where they lie.

    So parts of a support set are the same whatever order its images come in, and after a file has kept them.
    """
    first = features[:, :COLUMNS].half().float().cpu().numpy()
    return torch.from_numpy(np.lexsort(first.T[::-1])).to(features.device)


def one_in(labels: Tensor, way: int) -> Tensor:
    """How many images of each class `(way,)` are left out at a time: a tenth, at least one, none of a lone image."""
    counts = torch.bincount(labels, minlength=way)
    return torch.where(counts > 1, (counts // SHARES).clamp(min=1), 0)


def half(labels: Tensor, way: int) -> Tensor:
    """How many images of each class `(way,)` are left out where half of the class, rounded down, is to be missing."""
    return torch.bincount(labels, minlength=way) // 2


def enough_parts(labels: Tensor, out: Tensor) -> int:
    """How many parts it takes until every image that can be was left out, times what makes that `PARTS` or more."""
    counts = torch.bincount(labels, minlength=len(out))[out > 0]
    turns = int(-(-counts // out[out > 0]).max())
    return turns * -(-PARTS // turns)


def parts(labels: Tensor, out: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows that are learned from, `(count, kept)`, and rows that are asked about, `(count, asked)`.

    Every part lacks `out[c]` images of class c. They are taken from a shuffled class in turn, and the class is shuffled
    again once all of it was left out, so that all images are asked about almost equally often.
    """
    rng = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    asked = [
        _in_turn((labels == label).nonzero().squeeze(1), some, count, rng)
        for label, some in enumerate(out.tolist())
        if some
    ]
    left_out = torch.cat(asked, 1).sort(1).values
    everyone = torch.ones(count, len(labels), dtype=torch.bool).scatter_(1, left_out, False)
    return everyone.nonzero()[:, 1].reshape(count, -1), left_out


def _in_turn(members: Tensor, some: int, count: int, rng: torch.Generator) -> Tensor:
    """Rows `(count, some)` of the members; what a last turn lacks comes from its beginning, so none is there twice."""
    turns = -(-len(members) // some)
    taken = []
    for start in range(0, count, turns):
        shuffled = members[torch.randperm(len(members), generator=rng)]
        places = torch.arange(min(turns, count - start) * some) % len(members)
        taken.append(shuffled[places].reshape(-1, some))
    return torch.cat(taken)
