"""Whether another program, as plain timm, onnxruntime or PEFT, gives a model's logits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.model.model import Model

BATCHES = (1, 2, 7)
"""The sizes of batches that another program must take."""


@dataclass(frozen=True)
class ExpectedLogits:
    """Normalised pictures `(n, 3, height, width)` and the model's logits `(n, way)` of them, on the CPU.

    `norms` `(n, 1)` are there where a head on unit-norm features is written as a linear one: the other program's logits
    are then too large by the norm of the image's features.
    """

    pictures: Tensor
    logits: Tensor
    norms: Tensor | None


def expected_logits(model: Model, pictures: Tensor, is_scaled: bool) -> ExpectedLogits:
    """What another program should say of uint8 pictures `(n, 3, height, width)`, before the norms where `is_scaled`."""
    features = model.features(pictures)
    norms = features.norm(dim=1, keepdim=True).cpu() if is_scaled else None
    return ExpectedLogits(model.backbone.normalised(pictures).cpu(), model.answers(features).cpu(), norms)


def logits_elsewhere(program: Callable[[Tensor], Tensor], expected: ExpectedLogits) -> Tensor:
    """The other program's logits `(n, way)` of the pictures, in batches of every size, divided by the norms."""
    logits = torch.cat([program(part) for part in _batches(expected.pictures)])
    return logits if expected.norms is None else logits / expected.norms


def _batches(images: Tensor) -> list[Tensor]:
    """The images in batches of every size, over and over until they are used up."""
    sizes: list[int] = []
    while sum(sizes) < len(images):
        sizes.append(min(BATCHES[len(sizes) % len(BATCHES)], len(images) - sum(sizes)))
    return list(torch.split(images, sizes))
