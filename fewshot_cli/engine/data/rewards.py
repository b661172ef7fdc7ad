"""What a domain is rewarded with: how much its gradient does for the target's, as in FLAD (arXiv:2302.00674)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.data.domain_sampling import Reward
from fewshot_cli.engine.params import Params


def alignment(target: Params, gradient: Params, reward: Reward = "cosine") -> float:
    """How much a step along `gradient` does for the target, whose gradient is of the same names.

    `cosine` is in [-1, 1]. `magnitude`, in [0, 1], is 1 where both are of one length, whatever their directions; the
    two together are (cosine + 1) / 2 + magnitude.
    """
    t, g = (torch.cat([values[name].flatten() for name in target]).double() for values in (target, gradient))
    cosine = F.cosine_similarity(t, g, dim=0, eps=1e-12).item()
    squares = (t.square().sum() + g.square().sum()).item()
    magnitude = 2 * (t.norm() * g.norm()).item() / squares if squares else 0.0
    return {"cosine": cosine, "magnitude": magnitude, "cosine and magnitude": (cosine + 1) / 2 + magnitude}[reward]


def average(gradients: Sequence[Params]) -> Params:
    """The mean of one domain's gradients in several episodes: what it is rewarded for."""
    return {name: torch.stack([gradient[name] for gradient in gradients]).mean(0) for name in gradients[0]}


def last_matrix(params: Mapping[str, Tensor]) -> str:
    """The name of the last parameter with two axes or more, such as blocks.11.mlp.fc2.weight.

    FLAD compares gradients of the last layer alone, which costs no memory to keep for every domain. A head of
    prototypes has no weights, so here the last matrix of the backbone takes its place.
    """
    return [name for name, values in params.items() if values.ndim > 1][-1]
