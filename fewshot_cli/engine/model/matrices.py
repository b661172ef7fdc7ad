"""Which weights of a backbone LoRA changes where nobody says which."""

import re
from collections.abc import Mapping, Sequence

from torch import nn

from fewshot_cli.engine.model.attention import Rows, is_matrix
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.towers import image_params
from fewshot_cli.engine.params import Params
from fewshot_cli.errors import FewshotError

PICTURE_CHANNELS = 3
_WEIGHS_CHANNELS = re.compile(r"Squeeze|SEModule|GatherExcite|Cbam|GlobalContext|(Channel|Spatial|Split|Kernel)Attn$")
"""timm's modules that weigh the channels, or places, of what others compute."""


def low_rank_targets(
    backbone: Backbone, projections: Mapping[str, Rows], parts: Sequence[str], with_text: bool = False
) -> Params:
    """The weights of attention that make any of `parts`, "q", "k" and "v"; a text tower's only `with_text`.

    A backbone without attention has the weights of all linear layers, and of convolutions in its body that are not
    grouped. Raises FewshotError where there is none.
    """
    attention = {name for name, rows in projections.items() if set(parts) & rows.keys()}
    params = backbone.params if with_text else image_params(backbone)
    wanted = attention & params.keys() or _matrices(backbone.module)
    chosen = {name: values for name, values in params.items() if name in wanted}
    if not chosen:
        raise FewshotError(
            f"{backbone.name} has no attention, convolution or linear layer that LoRA could change.",
            "Name weights with --set method.targets=PATTERN, or use --recipe bitfit.",
        )
    return chosen


def _matrices(module: nn.Module) -> set[str]:
    """The weights in the body that count as matrices.

    What reads the picture, stands alone beside the stages, or only weighs channels is no part of the body.
    """
    layers = {name: part for name, part in module.named_modules() if is_matrix(part) and "." in name}
    weighing = {name for name, part in module.named_modules() if _WEIGHS_CHANNELS.search(type(part).__name__)}
    return {
        f"{name}.weight"
        for name, layer in layers.items()
        if layer.get_parameter("weight").shape[1] > PICTURE_CHANNELS
        and not any(name.startswith(f"{other}.") for other in weighing)
    }
