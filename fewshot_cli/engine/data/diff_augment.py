"""Augmentation of a batch of normalised images, on the device they are on."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.device import sent


@dataclass(frozen=True)
class AugmentDraws:
    """The random numbers of one DiffAugment, drawn beforehand, so that applying them is a pure function.

    `flip` turns the whole batch; `colour` `(3, n)`, uniform in [0, 1), is brightness, saturation, contrast of each
    image; `shift` `(2, n)` int64 is rows and columns.
    """

    flip: bool
    colour: Tensor
    shift: Tensor


def draw(images: Tensor, rng: torch.Generator, probability: float = 0.9) -> AugmentDraws | None:
    """The numbers for a batch `(n, 3, height, width)`; None, drawn with `1 - probability`, leaves it as it is.

    `rng` is a CPU generator, whatever the device of the images, so that a seed means the same on every device.
    """
    n, _, height, width = images.shape
    if torch.rand((), generator=rng).item() >= probability:
        return None
    flip = torch.rand((), generator=rng).item() >= 0.5
    colour = sent(torch.rand(3, n, generator=rng), images.device)
    shift = torch.stack([torch.randint(-m, m + 1, (n,), generator=rng) for m in (max_shift(height), max_shift(width))])
    return AugmentDraws(flip, colour, sent(shift, images.device))


def max_shift(size: int) -> int:
    """The largest shift in pixels: an eighth of `size`, halves rounded up."""
    return math.floor(0.125 * size + 0.5)


def diff_augment(images: Tensor, draws: AugmentDraws | None) -> Tensor:
    """Images `(n, 3, height, width)` flipped, with other colours, and shifted over a zero ground.

    DiffAugment (Zhao et al., 2020, arXiv:2006.10738) as P>M>F (arXiv:2204.07305) uses it on the support set:
    brightness ±0.5, saturation 0 to 2, contrast 0.5 to 1.5, in units of the normalised image.
    """
    if draws is None:
        return images
    if draws.flip:
        images = images.flip(-1)
    brightness, saturation, contrast = draws.colour.view(3, -1, 1, 1, 1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    level = images.mean((1, 2, 3), keepdim=True)
    images = (images - level) * (contrast + 0.5) + level
    return _shifted(images, draws.shift)


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    n, _, height, width = images.shape
    rows = torch.arange(height, device=images.device) + shift[0, :, None]
    columns = torch.arange(width, device=images.device) + shift[1, :, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    image = torch.arange(n, device=images.device)[:, None, None]
    taken = images.permute(0, 2, 3, 1)[
        image, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return (taken * inside.unsqueeze(-1)).permute(0, 3, 1, 2)
