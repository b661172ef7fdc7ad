"""Random views of pictures for meta-tuning: cropped, turned, in other colours; a batch at once, on its device."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.rng import Draws

GREY = (0.299, 0.587, 0.114)  # what red, green and blue weigh in a grey picture


@dataclass(frozen=True)
class Views:
    """What happens to each of n pictures, drawn beforehand, so that applying it is a pure function.

    `boxes` `(n, 4)` is the part shown: left, top, width, height as shares of the picture's sides; `flips` `(n,)` says
    whether left and right change places; `colours` `(3, n)` are the factors of brightness, contrast and saturation.
    """

    boxes: Tensor
    flips: Tensor
    colours: Tensor


def draw_views(
    draws: Draws,
    n: int,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    jitter: float = 0.4,
) -> Views:
    """Views of n square pictures as Meta-Dataset's training transform draws them (P>M>F, arXiv:2204.07305).

    RandomResizedCrop with a share of the area uniform in `scale` and the logarithm of the ratio of the sides uniform in
    `ratio`, a flip in half of the cases, factors of colour uniform in 1 ± `jitter`. Differs from torchvision: a side
    that would not fit is cut to the picture's, where torchvision draws up to ten times again.
    """
    area, shape, left, top, flip = draws.uniform(5 * n).reshape(5, n)
    area = scale[0] + (scale[1] - scale[0]) * area
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = np.exp(low + (high - low) * shape)
    width, height = np.minimum(np.sqrt(area * shape), 1), np.minimum(np.sqrt(area / shape), 1)
    boxes = np.stack([left * (1 - width), top * (1 - height), width, height], axis=1)
    colours = 1 - jitter + 2 * jitter * draws.uniform(3 * n).reshape(3, n)
    return Views(torch.from_numpy(boxes).float(), torch.from_numpy(flip < 0.5), torch.from_numpy(colours).float())


def viewed(images: Tensor, views: Views) -> Tensor:
    """The views `(n, 3, height, width)` of images of the same shape, in [0, 1] like these.

    Crops are resized bilinearly. Brightness comes first, then contrast, then saturation, each as Pillow's enhancers do
    it; torchvision's ColorJitter takes them in random order.
    """
    return _coloured(_cropped(images, views), *views.colours.to(images.device))


def viewed_pictures(pictures: Tensor, views: Views, chunk: int = 64) -> Tensor:
    """The views of uint8 pictures `(n, 3, height, width)`, rounded to uint8, so many at a time."""
    parts = [torch.split(each, chunk) for each in (pictures, views.boxes, views.flips, views.colours.T)]
    shown = [
        (255 * viewed(some.float() / 255, Views(boxes, flips, colours.T))).round().to(torch.uint8)
        for some, boxes, flips, colours in zip(*parts, strict=True)
    ]
    return torch.cat(shown)


def _cropped(images: Tensor, views: Views) -> Tensor:
    left, top, width, height = views.boxes.to(images.device).unbind(1)
    mirror = 1 - 2 * views.flips.to(images.device).float()
    # From the view's coordinates, -1 ... 1 from edge to edge, to the picture's.
    zero = torch.zeros_like(left)
    across = torch.stack([width * mirror, zero, 2 * left + width - 1], dim=1)
    down = torch.stack([zero, height, 2 * top + height - 1], dim=1)
    grid = F.affine_grid(torch.stack([across, down], dim=1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _coloured(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    images = (images * brightness.view(-1, 1, 1, 1)).clamp(0, 1)
    level = _grey(images).mean((1, 2, 3), keepdim=True)
    images = (level + (images - level) * contrast.view(-1, 1, 1, 1)).clamp(0, 1)
    grey = _grey(images)
    return (grey + (images - grey) * saturation.view(-1, 1, 1, 1)).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    # One by one, since a GPU would be waited for while it copies a list.
    weights = torch.stack([images.new_full((), weight) for weight in GREY]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)
