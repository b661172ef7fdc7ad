"""What training may go down: each objective is a function of features, parameters, a part of a batch, and chance."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.model.clip.names import SCALE
from fewshot_cli.engine.params import Params

HEAD = "class vectors"  # a name that no parameter of a backbone has


@dataclass(frozen=True)
class Part:
    """A part of a batch, as large as goes through the backbone at once.

    `labels` are `(n,)` in [0, way). `batch` is the number of images in the whole batch. `plain` `(n, dim)` are features
    of the images as they are, where an objective asked for these beside those of the augmented ones. `present` `(way,)`
    are the classes that the loss is over, where these are not all.
    """

    labels: Tensor
    way: int
    batch: int
    plain: Tensor | None = None
    present: Tensor | None = None

    @property
    def share(self) -> float:
        """The share of the batch's images, in (0, 1]."""
        return len(self.labels) / self.batch


Objective: TypeAlias = Callable[[Tensor, Params, Part, torch.Generator], Tensor]
"""From features `(n, dim)`, what is trained, the part of the batch and a generator: what the part adds to the loss.

The parts of a batch add up, so that a mean over images is a sum over the part's images, divided by `batch`.
"""


def class_vectors(scale: float | None) -> Objective:
    """The cross-entropy of scale x cosine of feature and class vector, the vectors being trained along as `HEAD`.

    None has the scale trained along, too: its logarithm is `SCALE`, as CLIP has it.
    """

    def loss(features: Tensor, params: Params, part: Part, rng: torch.Generator) -> Tensor:
        factor = params[SCALE].exp() if scale is None else scale
        logits = factor * F.normalize(features, dim=1) @ F.normalize(params[HEAD], dim=1).T
        if part.present is not None:
            logits = logits.masked_fill(~part.present, -torch.inf)
        return F.cross_entropy(logits, part.labels, reduction="sum") / part.batch

    return loss


def prototypes(scale: float) -> Objective:
    """The cross-entropy of scale x cosine of feature and prototype, with the gradient of the prototypes.

    These are the class means of the plain images' features, so that the part is the whole support set.
    """

    def loss(features: Tensor, params: Params, part: Part, rng: torch.Generator) -> Tensor:
        vectors = class_means(features if part.plain is None else part.plain, part.labels, part.way)
        return F.cross_entropy(cosine_head(vectors, scale).logits(features), part.labels)

    return loss
