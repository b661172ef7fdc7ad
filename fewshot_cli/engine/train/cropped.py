"""What a frozen backbone sees in random crops of the support set, as methods for CLIP cache it."""

from collections.abc import Mapping

from torch import Tensor

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.data.crops import draw_views, viewed_pictures
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.rng import Draws

AREA = (0.5, 1.0)
"""The share of a picture's area that a crop shows, as the authors of Tip-Adapter, LP++ and ProLIP draw it."""


def seen_in_crops(
    backbone: Backbone,
    support: Support,
    draws: Draws,
    weights: Mapping[str, Tensor] | None = None,
    area: tuple[float, float] = AREA,
) -> Tensor:
    """Features `(support, dim)` of a random crop of each image, half of them flipped; `weights` replace the base's."""
    pictures = support.pictures().to(backbone.device)
    crops = draw_views(draws, len(pictures), scale=area, jitter=0.0)
    return backbone.frozen_features(viewed_pictures(pictures, crops), weights)
