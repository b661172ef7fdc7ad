"""Which rows of which weights make queries, keys and values: found from a model's attention layers.

timm keeps the three in one layer, in two, or in layers of their own; in one layer they follow each other either once or
anew for each head.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

Rows = Mapping[str, Tensor]
"""The rows `(n,)` int64 of a weight that make "q", "k" and "v", as far as the layer makes them."""

ROLES = {
    **dict.fromkeys(("qkv", "qkvs", "qkv_proj", "to_qkv", "in_proj"), "qkv"),
    **dict.fromkeys(("kv", "to_kv", "kv_proj"), "kv"),
    "qk": "qk",
    **{name: letter for letter in "qkv" for name in (letter, f"{letter}_proj", f"w{letter}", f"to_{letter}")},
    "query": "q",
    "key": "k",
    "value": "v",
}
"""What the children of an attention layer make, by the names that timm gives them there."""

TORCHS_OWN = "in_proj_weight"
"""Query, key and value in torch's own attention, one after another; it has no layer for them."""


def projections(module: nn.Module) -> dict[str, Rows]:
    """The rows that make queries, keys and values, by the weight's name, of all attention in the body of the model.

    Attention that only pools the features before a classifier is no part of the body.
    """
    found: dict[str, Rows] = {}
    for name, part in module.named_modules():
        joint = dict(part.named_parameters(recurse=False)).get(TORCHS_OWN)
        if joint is not None and not _pools(name, module):
            thirds = torch.arange(len(joint)).chunk(3)
            found[f"{name}.{TORCHS_OWN}"] = dict(zip("qkv", thirds, strict=True))
        if _is_attention(part) and not _pools(name, module):
            for child, roles in _children(part):
                for weight, layer in _weights(part.get_submodule(child)):
                    full = ".".join(filter(None, (name, child, weight)))
                    found[full] = _rows(part, roles, layer)
    return found


def _is_attention(part: nn.Module) -> bool:
    """Whether the module makes queries and keys: a layer called `v` or `k` alone may be anything."""
    letters = {letter for _, roles in _children(part) for letter in roles}
    return {"q", "k"} <= letters


def _children(part: nn.Module) -> list[tuple[str, str]]:
    return [(name, ROLES[name]) for name, child in part.named_children() if name in ROLES and any(_weights(child))]


def _weights(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The weights in a layer, or in a layer with its norm, that mix all channels: a depthwise one says nothing new."""
    for name, part in layer.named_modules():
        if is_matrix(part):
            yield ".".join(filter(None, (name, "weight"))), part


def is_matrix(layer: nn.Module) -> bool:
    """Whether the layer's weight counts as one matrix: linear layers, and convolutions that are not grouped."""
    if isinstance(layer, nn.Linear):
        return True
    return isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups == 1


def _pools(name: str, module: nn.Module) -> bool:
    """Whether the part of this name is, or is in, attention that pools the features."""
    parts = name.split(".")
    ancestors = [module.get_submodule(".".join(parts[: end + 1])) for end in range(len(parts))] if name else []
    return any("AttentionPool" in type(part).__name__ for part in ancestors)


def _rows(attention: nn.Module, roles: str, layer: nn.Module) -> Rows:
    """Which rows of the layer make what.

    The sizes of queries, keys and values that follow each other are `unit`; they repeat until the rows are used up.
    """
    count = len(layer.get_parameter("weight"))
    if len(roles) > 1 and getattr(attention, "use_global", False):
        roles = "kv"  # GCViT takes global queries from elsewhere, and keeps the name of the layer
    unit = _unit(attention, roles, count)
    if len(roles) == 1 or count % sum(unit):
        return {letter: torch.arange(count) for letter in roles}
    places = torch.split(torch.arange(count).view(-1, sum(unit)), list(unit), dim=1)
    return {letter: rows.flatten() for letter, rows in zip(roles, places, strict=True)}


def _unit(attention: nn.Module, roles: str, count: int) -> tuple[int, ...]:
    """The rows of each role that follow each other, from what timm's attention layers say of themselves."""

    def said(*names: str) -> int | None:
        return next((value for name in names if isinstance(value := getattr(attention, name, None), int)), None)

    heads = said("num_heads") or 1
    if type(attention).__name__ == "LambdaLayer":  # one set of keys and values for all heads
        return (heads * (said("dim_qk") or 0), said("dim_qk") or 0, said("dim_v") or 0)
    if type(attention).__name__ == "LinearSelfAttention":  # of MobileViTv2: one query for all channels
        return (1, (count - 1) // 2, (count - 1) // 2)
    if type(attention).__name__ == "LiteMLA":
        return (said("dim") or count // 3,) * 3
    if getattr(attention, "head_first", False):
        return (count // heads // len(roles),) * len(roles)
    of_halo = type(attention).__name__ == "HaloAttn"  # beside the sizes of all heads, as BottleneckAttn has them
    key = said("key_dim", "qk_dim", "dim_head_qk" if of_halo else "dim_out_qk")
    value = said("val_dim", "pdim", "dim_head_v" if of_halo else "dim_out_v")
    if key is not None and value is not None:
        return tuple({"q": key, "k": key, "v": value}[letter] for letter in roles)
    return (count // len(roles),) * len(roles)
