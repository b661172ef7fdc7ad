"""The names of a two-tower model's weights, however a file spells them: one spelling for all that follows.

The image tower is called `visual.` and has timm's names, the text tower `text.` and has open_clip's. Read are what
open_clip writes for either of its classes, OpenAI's own files, and those of Hugging Face's CLIPModel.
"""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.params import Params

PREFIX = "clip:"
"""How the name of a two-tower backbone begins: clip:MODEL/TAG."""
VISUAL = "visual."
TEXT = "text."
SCALE, BIAS = "logit_scale", "logit_bias"
NO_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers that OpenAI's files hold beside the weights."""
_TEXT_AT_ROOT = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
_IN_A_BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTSIDE = {"ln_pre": "norm_pre", "ln_post": "norm", "conv1": "patch_embed.proj"}
_OF_HUGGING_FACE = (  # in this order
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"^text_model\.encoder\.layers\.", "text.transformer.resblocks."),
    (r"^vision_model\.embeddings\.class_embedding$", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^text_model\.embeddings\.token_embedding\.", "text.token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "text.positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "text.ln_final."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.self_attn\.", ".attn."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)


def is_two_towers(name: str) -> bool:
    """Whether the name is that of a model with an image tower and a text tower."""
    return name.startswith(PREFIX)


def canonical(weights: Mapping[str, Tensor]) -> Params:
    """The weights in float32 under our names. What is no weight of either tower keeps its name."""
    named = {name.removeprefix("module."): values for name, values in weights.items()}
    named = {n: v.float() if v.is_floating_point() else v for n, v in named.items() if n not in NO_WEIGHTS}
    if "vision_model.embeddings.class_embedding" in named:
        named = _from_hugging_face(named)
    named = {TEXT + name if name.startswith(_TEXT_AT_ROOT) else name: values for name, values in named.items()}
    if "visual.class_embedding" in named:
        named = dict(_timm_form(name, values) for name, values in named.items())
    for name in (SCALE, BIAS):
        if name in named:
            named[name] = named[name].reshape(())
    return named


def _timm_form(name: str, values: Tensor) -> tuple[str, Tensor]:
    """A weight of open_clip's vision transformer as timm has it; any other as it is."""
    if not name.startswith(VISUAL):
        return name, values
    own = name.removeprefix(VISUAL)
    match own:
        case "class_embedding":
            return "visual.cls_token", values.reshape(1, 1, -1)
        case "positional_embedding":
            return "visual.pos_embed", values.unsqueeze(0)
        case "proj":
            return "visual.head.weight", values.T.contiguous()
    if block := re.match(r"transformer\.resblocks\.(\d+)\.", own):
        rest = own[block.end() :]
        for theirs, ours in _IN_A_BLOCK.items():
            if rest.startswith(theirs):
                return f"visual.blocks.{block[1]}.{ours}{rest.removeprefix(theirs)}", values
    layer, dot, value = own.partition(".")
    return f"visual.{_OUTSIDE.get(layer, layer)}{dot}{value}", values


def _from_hugging_face(weights: Params) -> Params:
    """The weights of a CLIPModel under open_clip's names: query, key and value become one matrix."""
    found: Params = {}
    for name, values in weights.items():
        if name.endswith("position_ids"):
            continue
        for theirs, ours in _OF_HUGGING_FACE:
            name = re.sub(theirs, ours, name)
        found[name] = values
    if "visual_projection.weight" in found:
        found["visual.proj"] = found.pop("visual_projection.weight").T
    if "text_projection.weight" in found:
        found["text.text_projection"] = found.pop("text_projection.weight").T.contiguous()
    for first in [name for name in found if ".attn.q_proj." in name]:
        parts = [found.pop(first.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        found[first.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return found


def resized_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings `(1, 1 + patches, width)` of a square grid for another grid, the class token's as it is."""
    first, patches = positions[:, :1], positions[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    square = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([first, square.permute(0, 2, 3, 1).reshape(1, grid[0] * grid[1], -1)], dim=1)
