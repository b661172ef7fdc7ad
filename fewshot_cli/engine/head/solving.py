"""Where closed forms are solved: a GPU takes longer for a small system than it takes to bring it to the CPU."""

from torch import Tensor

SMALL = 2**22
"""Numbers in the features: 10,000 images of 384. Larger systems stay where they are."""


def where_solved(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features `(..., support, dim)` and labels where a head is fitted to them: on the CPU, or where they are."""
    if features.device.type == "cpu" or features.numel() > SMALL:
        return features, labels
    return features.cpu(), labels.cpu()
