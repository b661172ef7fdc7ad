"""A delta as an adapter of PEFT on a timm model: LoRA or SHiRA. engine.adapted goes the other way.

An adapter changes the weights of layers; what else it brings, as the classifier, are whole modules. PEFT says in
adapter_config.json what it is, and names tensors after the layers.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewshot_cli.engine.delta.change import Change, Delta, LowRank, Sparse
from fewshot_cli.errors import FewshotError

PREFIX = "base_model.model."
"""How the names of all tensors begin that belong to a layer."""
MOST_WHOLE = 0.5
"""The share of a model's values that may go along as whole modules: beyond it, there is no adapter to speak of."""
KINDS = {"LORA": "LoRA", "SHIRA": "SHiRA", "VERA": "VeRA"}
LINEAR = "linear layer"
CONVOLUTION = "convolution"
OTHERWISE = "Use --format safetensors, the merged weights for plain timm, or --format onnx."


def layer_kinds(module: nn.Module, called: Collection[str] | None = None) -> dict[str, str]:
    """What the layers are that PEFT can adapt, by name: linear ones, and convolutions that LoRA expresses exactly.

    PEFT's LoRA knows no dilation, and adds to what a layer gives: what computes with its weight, as weight
    standardisation does, is left out. So are layers that are not among the `called` ones, where these are known: the
    model computes with their weights and never sees what PEFT adds.
    """
    kinds = {}
    for name, part in module.named_modules():
        if called is not None and name not in called:
            continue
        if isinstance(part, nn.Linear):
            kinds[name] = LINEAR
        elif isinstance(part, nn.Conv2d) and _is_plain(part):
            kinds[name] = CONVOLUTION
    return kinds


def _is_plain(layer: nn.Conv2d) -> bool:
    is_known = type(layer) is nn.Conv2d or type(layer).__name__ == "Conv2dSame"
    return is_known and layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"


@dataclass(frozen=True)
class Adapter:
    """What PEFT reads: `settings` of adapter_config.json, and tensors. `whole` names modules that come as they are."""

    kind: Literal["LORA", "SHIRA"]
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    whole: tuple[str, ...]


def adapter_of(
    delta: Delta, module: nn.Module, moved: Mapping[str, Tensor], called: Collection[str] | None = None
) -> Adapter:
    """The delta on `module` as LoRA, where it has changes of low rank, else as SHiRA; `moved` are the merged weights.

    `called` are the names of the modules that the model calls, all where it is None.

    Changes that this kind can't express go along as whole modules. Raises FewshotError, which names the parameter,
    where there is no such module, where these are most of the model, and where PEFT has no adapter for any change.
    """
    kinds = layer_kinds(module, called)
    layers = {name.removesuffix(".weight"): change for name, change in delta.items() if name.endswith(".weight")}
    low_rank = {
        name: change
        for name, change in layers.items()
        if isinstance(change, LowRank) and name in kinds and _rank(change)
    }
    sparse = {
        name: change
        for name, change in layers.items()
        if isinstance(change, Sparse) and kinds.get(name) == LINEAR and len(change.positions)
    }
    adapted: Mapping[str, Change] = low_rank or sparse
    others = [
        name for name, change in delta.items() if name.removesuffix(".weight") not in adapted and change.nonzeros()
    ]
    if not adapted:
        raise _nothing_to_adapt(delta, kinds, module, called)
    whole = _whole_modules(others, module, adapted)
    settings, tensors = _lora(low_rank) if low_rank else _shira(sparse)
    for part in whole:
        for name, values in module.get_submodule(part).state_dict(prefix=f"{part}.").items():
            tensors[PREFIX + name] = moved.get(name, values)
    settings |= {"target_modules": list(adapted), "modules_to_save": list(whole)}
    return Adapter("LORA" if low_rank else "SHIRA", settings, tensors, whole)


def _rank(change: LowRank) -> int:
    return change.left.shape[1]


def _nothing_to_adapt(
    delta: Delta, kinds: Mapping[str, str], module: nn.Module, called: Collection[str] | None
) -> FewshotError:
    moving = {name: change for name, change in delta.items() if change.nonzeros()}
    if not moving:
        return FewshotError("This classifier is a head only; PEFT has no adapter that changes nothing else.", OTHERWISE)
    name, change = next(iter(moving.items()))
    holder = name.rpartition(".")[0]
    if isinstance(module.get_submodule(holder), nn.Linear | nn.Conv2d) and called is not None and holder not in called:
        return FewshotError(
            f"timm's model computes with {name} without calling the layer, so an adapter of PEFT has no effect there.",
            OTHERWISE,
        )
    form = {LowRank: "of low rank", Sparse: "sparse"}.get(type(change), "dense")
    layer = kinds.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
    if layer is None and name.endswith(".weight") and isinstance(module.get_submodule(holder), nn.Conv2d):
        layer = "convolution that is grouped or dilated, or computes with another weight than its own"
    where = f"of a {layer}" if layer else "not of a layer's weight"
    return FewshotError(
        "PEFT has no adapter for this classifier: LoRA has changes of low rank, SHiRA sparse ones of linear layers; "
        f"that of {name} is {form}, {where}.",
        OTHERWISE,
    )


def _whole_modules(names: Iterable[str], module: nn.Module, adapted: Iterable[str]) -> tuple[str, ...]:
    """The modules that hold these parameters, none within another."""
    adapted = tuple(adapted)
    holders = {name: name.rpartition(".")[0] for name in names}
    for name, holder in holders.items():
        if not holder or any(layer == holder or layer.startswith(f"{holder}.") for layer in adapted):
            raise FewshotError(
                f"PEFT can't express this classifier: {name} changes beside layers that an adapter changes.", OTHERWISE
            )
    parts = sorted(set(holders.values()))
    parts = [part for part in parts if not any(part.startswith(f"{other}.") for other in parts)]
    values = sum(p.numel() for part in parts for p in module.get_submodule(part).parameters())
    if values > MOST_WHOLE * sum(p.numel() for p in module.parameters()):
        raise FewshotError(
            f"PEFT has no adapter for most of what this classifier changes, as {next(iter(holders))}: "
            "it would be a copy of the model.",
            OTHERWISE,
        )
    return tuple(parts)


def _lora(changes: Mapping[str, LowRank]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """LoRA's settings, with a factor of 1, and tensors."""
    tensors = {}
    for layer, change in changes.items():
        rank = _rank(change)
        tensors[f"{PREFIX}{layer}.lora_A.weight"] = change.right.reshape(rank, *change.shape[1:])
        ones = (1,) * (len(change.shape) - 2)
        tensors[f"{PREFIX}{layer}.lora_B.weight"] = change.left.reshape(change.shape[0], rank, *ones)
    usual = Counter(map(_rank, changes.values())).most_common(1)[0][0]
    others = {f"^{re.escape(layer)}": _rank(change) for layer, change in changes.items() if _rank(change) != usual}
    settings = {"r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others, "bias": "none"}
    return settings, tensors


def _shira(changes: Mapping[str, Sparse]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """SHiRA's settings and tensors. Every layer has r (out + in) values with one r, so some of them add 0."""
    needed = max(-(-len(change.positions) // sum(change.shape)) for change in changes.values())
    tensors = {}
    for layer, change in changes.items():
        rows, columns = change.shape
        count = needed * (rows + columns)
        if count > rows * columns:
            raise FewshotError(
                f"PEFT's SHiRA has one density for all layers, and {layer}.weight has too few values for that of the "
                "others.",
                OTHERWISE,
            )
        values = torch.zeros(rows * columns).index_copy(0, change.positions.cpu(), change.values.float().cpu())
        used = torch.zeros(rows * columns, dtype=torch.bool)
        used[change.positions.cpu()] = True
        used[(~used).nonzero().squeeze(1)[: count - len(change.positions)]] = True
        positions = used.nonzero().squeeze(1)
        tensors[f"{PREFIX}{layer}.shira_weight"] = values[positions]
        where = torch.stack([positions // columns, positions % columns])
        tensors[f"{PREFIX}{layer}.shira_indices"] = where.to(torch.int32)
    return {"r": needed, "mask_type": "random"}, tensors
