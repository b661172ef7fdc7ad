"""Which images of a support set are left out together, so that a setting is chosen by held-out images."""

import torch.nn.functional as F
from torch import Tensor


def folds(labels: Tensor, count: int) -> Tensor:
    """The fold `(n,)`, from 0 to `count` - 1, of each image: the images of a class take the folds in turn."""
    members = F.one_hot(labels)
    return ((members.cumsum(0) * members).sum(1) - 1) % count
