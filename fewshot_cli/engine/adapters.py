"""PEFT's adapters of a timm model as deltas, and deltas as adapters: LoRA, SHiRA, and VeRA to read.

An adapter changes the weights of layers; what else it brings, as the classifier, are whole modules. PEFT says in
adapter_config.json what it is, and names tensors after the layers.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from fewshot_cli.engine.deltas import Change, Delta, LowRank, Sparse, smaller
from fewshot_cli.errors import FewshotError

PREFIX = "base_model.model."
"""How the names of all tensors begin that belong to a layer."""
MOST_WHOLE = 0.5
"""The share of a model's values that may go along as whole modules: beyond it, there is no adapter to speak of."""
MOST_IN_A_PRODUCT = 1e38
"""Of factors: a third of what float32 holds."""

LINEAR = "linear layer"
CONVOLUTION = "convolution"
OTHERWISE = "Use --format safetensors, the merged weights for plain timm, or --format onnx."


def layer_kinds(module: nn.Module) -> dict[str, str]:
    """What the layers are that PEFT can adapt, by name: linear ones, and convolutions that LoRA expresses exactly.

    PEFT's LoRA knows no dilation, and adds to what a layer gives: what computes with its weight, as weight
    standardisation does, is left out.
    """
    kinds = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            kinds[name] = LINEAR
        elif isinstance(part, nn.Conv2d) and _is_plain(part):
            kinds[name] = CONVOLUTION
    return kinds


def _is_plain(layer: nn.Conv2d) -> bool:
    is_known = type(layer) is nn.Conv2d or type(layer).__name__ == "Conv2dSame"
    return is_known and layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"


# --- a delta as an adapter -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapter:
    """What PEFT reads: `settings` of adapter_config.json, and tensors. `whole` names modules that come as they are."""

    kind: Literal["LORA", "SHIRA"]
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    whole: tuple[str, ...]


def adapter_of(delta: Delta, module: nn.Module, moved: Mapping[str, Tensor]) -> Adapter:
    """The delta on `module` as LoRA, where it has changes of low rank, else as SHiRA; `moved` are the merged weights.

    Changes that this kind can't express go along as whole modules. Raises FewshotError, which names the parameter,
    where there is no such module, where these are most of the model, and where PEFT has no adapter for any change.
    """
    kinds = layer_kinds(module)
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
    others = [name for name in delta if name.removesuffix(".weight") not in adapted]
    if not adapted:
        raise _nothing_to_adapt(delta, kinds)
    whole = _whole_modules(others, module, adapted)
    settings, tensors = _lora(low_rank) if low_rank else _shira(sparse)
    for part in whole:
        for name, values in module.get_submodule(part).state_dict(prefix=f"{part}.").items():
            tensors[PREFIX + name] = moved.get(name, values)
    settings |= {"target_modules": list(adapted), "modules_to_save": list(whole)}
    return Adapter("LORA" if low_rank else "SHIRA", settings, tensors, whole)


def _rank(change: LowRank) -> int:
    return change.left.shape[1]


def _nothing_to_adapt(delta: Delta, kinds: Mapping[str, str]) -> FewshotError:
    if not delta:
        return FewshotError("This classifier is a head only; PEFT has no adapter that changes nothing else.", OTHERWISE)
    name, change = next(iter(delta.items()))
    form = {LowRank: "of low rank", Sparse: "sparse"}.get(type(change), "dense")
    layer = kinds.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
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


# --- an adapter as a delta -------------------------------------------------------------------------------------------


class AdapterSettings(BaseModel):
    """The part of adapter_config.json that decides what an adapter does when it answers."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    peft_type: str
    r: int = Field(default=8, ge=1)
    lora_alpha: float = 8
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    projection_prng_key: int | None = None
    save_projection: bool = True

    def scale(self, layer: str, rank: int) -> float:
        """What LoRA multiplies its change of a layer by."""
        alpha = float(_of_pattern(self.alpha_pattern or {}, layer, self.lora_alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, layer: str) -> int:
        return int(_of_pattern(self.rank_pattern or {}, layer, self.r))


TENSORS = {
    "LORA": ("lora_A.weight", "lora_B.weight"),
    "SHIRA": ("shira_weight", "shira_indices"),
    "VERA": ("vera_lambda_b", "vera_lambda_d"),
}
"""How the names of the tensors of a layer end, by kind of adapter."""
KINDS = {"LORA": "LoRA", "SHIRA": "SHiRA", "VERA": "VeRA"}
HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "revision", "task_type", "peft_version"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
        *("lora_dropout", "vera_dropout", "d_initial", "init_weights", "mask_type", "random_seed", "loftq_config"),
        *("eva_config", "megatron_core", "qalora_group_size", "runtime_config"),
    }
)
"""Settings that change nothing about the answers of an adapter whose tensors are known."""
KEEPS_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways of beginning LoRA that leave the weights it is added to as they are."""
INSTEAD = "Merge it in PEFT (merge_and_unload) and go on with the model's weights, or train a plain LoRA."


def adapter_settings(raw: Mapping[str, Any], place: Path) -> AdapterSettings:
    """The settings of the adapter in `place`. Raises FewshotError for those that nothing here can follow."""
    try:
        settings = AdapterSettings.model_validate(dict(raw))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise FewshotError(f"{place} has a wrong {name} in adapter_config.json: {first['msg']}.", _AGAIN) from None
    if settings.peft_type not in TENSORS:
        raise FewshotError(
            f"{place} is an adapter of the kind {settings.peft_type}; fewshot reads LoRA, SHiRA and VeRA.", INSTEAD
        )
    unread = [name for name, value in (settings.model_extra or {}).items() if name not in HARMLESS and _is_set(value)]
    if unread:
        raise FewshotError(
            f"{place} has {unread[0]} = {raw[unread[0]]!r}, which a {KINDS[settings.peft_type]} that fewshot reads "
            "does not have.",
            INSTEAD,
        )
    if settings.init_lora_weights not in KEEPS_BASE:
        raise FewshotError(
            f"{place} was begun by init_lora_weights = {settings.init_lora_weights!r}, which changes the weights it "
            "is added to.",
            "Convert it in PEFT: save_pretrained(path, path_initial_model_for_weight_conversion=...), or merge it.",
        )
    return settings


def _is_set(value: Any) -> bool:
    return value not in (None, False, "none", "") and value != {} and value != []


_AGAIN = "Save it again with save_pretrained of PEFT."


@dataclass(frozen=True)
class Adapted:
    """What an adapter does to a model: the delta of its layers, and what it brings whole, by timm's names."""

    delta: dict[str, Change]
    saved: dict[str, Tensor]


def changes_of(settings: AdapterSettings, tensors: Mapping[str, Tensor], module: nn.Module, place: Path) -> Adapted:
    """What the adapter in `place` with these tensors does to `module`.

    Raises FewshotError for a layer that the model doesn't have, a tensor that doesn't fit it, and numbers that aren't.
    """
    kind = settings.peft_type
    layers: dict[str, dict[str, Tensor]] = {}
    saved: dict[str, Tensor] = {}
    projections: dict[str, Tensor] = {}
    for name, values in tensors.items():
        if not bool(torch.isfinite(values).all()):
            raise FewshotError(f"{place} holds a value that is not a number, in {name}.", "Train it again.")
        ending = next((end for end in TENSORS[kind] if name.endswith(f".{end}")), None)
        if name in ("base_model.vera_A", "base_model.vera_B") and kind == "VERA":
            projections[name[-1]] = values.float()
        elif not name.startswith(PREFIX) or (ending is None and re.search(r"\.(lora|shira|vera)_", name)):
            raise FewshotError(f"{place} holds {name}, which no {KINDS[kind]} that fewshot reads has.", INSTEAD)
        elif ending:
            layer = name.removeprefix(PREFIX).removesuffix(f".{ending}")
            layers.setdefault(layer, {})[ending] = values if ending == "shira_indices" else values.float()
        else:
            saved[name.removeprefix(PREFIX)] = values
    read = _Reader(settings, place, _shapes(layers, kind, module, place))
    if kind == "VERA":
        read.project(projections)
    return Adapted({f"{layer}.weight": read.change(layer, layers[layer]) for layer in layers}, saved)


def _shapes(
    layers: Mapping[str, Mapping[str, Tensor]], kind: str, module: nn.Module, place: Path
) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's weight. Raises FewshotError unless the model has them all, of a kind that fits."""
    parts, kinds = dict(module.named_modules()), layer_kinds(module)
    for layer, found in layers.items():
        if layer not in parts:
            raise FewshotError(
                f"{place} adapts {layer}, which the model without its classifier does not have.",
                "Give --backbone the name of the model that it was trained on; an adapted classifier can't be read, "
                "one in modules_to_save can.",
            )
        if layer not in kinds or (kind != "LORA" and kinds[layer] != LINEAR):
            raise FewshotError(f"{place} adapts {layer}, a layer of which fewshot can't add up the change.", INSTEAD)
        missing = [name for name in TENSORS[kind] if name not in found]
        if missing:
            raise FewshotError(f"{place} lacks {missing[0]} of {layer}.", _AGAIN)
    return {layer: tuple(parts[layer].weight.shape) for layer in layers}


class _Reader:
    """Changes of layers of these shapes, as an adapter of these settings in `place` has them."""

    def __init__(self, settings: AdapterSettings, place: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.settings, self.place, self.shapes = settings, place, shapes
        self.a = self.b = torch.empty(0, 0)

    def change(self, layer: str, tensors: Mapping[str, Tensor]) -> Change:
        first, second = (tensors[name] for name in TENSORS[self.settings.peft_type])
        match self.settings.peft_type:
            case "LORA":
                return self._lora(layer, first, second)
            case "SHIRA":
                return self._shira(layer, first, second)
            case _:
                return self._vera(layer, first, second)

    def _lora(self, layer: str, a: Tensor, b: Tensor) -> LowRank:
        shape, rank = self.shapes[layer], self.settings.rank(layer)
        self._check(layer, a, (rank, *shape[1:]))
        self._check(layer, b, (shape[0], rank, *(1,) * (len(shape) - 2)))
        left = b.reshape(shape[0], rank) * self.settings.scale(layer, rank)
        return self._product(layer, left, a.reshape(rank, -1))

    def _shira(self, layer: str, values: Tensor, indices: Tensor) -> Sparse:
        shape = self.shapes[layer]
        self._check(layer, values, (self.settings.r * sum(shape),))
        self._check(layer, indices, (2, len(values)))
        rows, columns = indices.long()
        if bool((indices != indices.long()).any() | (rows < 0).any() | (rows >= shape[0]).any()) or bool(
            ((columns < 0) | (columns >= shape[1])).any()
        ):
            raise FewshotError(f"{self.place} has shira_indices of {layer} beyond its {shape} values.", _AGAIN)
        positions, places = torch.unique(rows * shape[1] + columns, return_inverse=True)  # PEFT adds up what is twice
        sums = torch.zeros(len(positions)).index_add(0, places, values)
        return Sparse(shape, positions[sums != 0], sums[sums != 0])

    def project(self, saved: Mapping[str, Tensor]) -> None:
        """Takes VeRA's shared projections from the file, or draws them again as PEFT does: on a CPU, A first."""
        rank = self.settings.r
        rows = max((shape[0] for shape in self.shapes.values()), default=0)
        columns = max((shape[1] for shape in self.shapes.values()), default=0)
        if "A" in saved and "B" in saved:
            self.a, self.b = saved["A"], saved["B"]
        elif self.settings.save_projection or self.settings.projection_prng_key is None:
            raise FewshotError(
                f"{self.place} lacks VeRA's projections vera_A and vera_B.", "Save it again with save_projection=True."
            )
        else:
            rng = torch.Generator().manual_seed(self.settings.projection_prng_key)
            self.a = torch.empty(rank, columns).uniform_(-(b := _bound(columns)), b, generator=rng)
            self.b = torch.empty(rows, rank).uniform_(-(b := _bound(rank)), b, generator=rng)
        if self.a.ndim != 2 or self.b.ndim != 2 or self.a.shape[1] < columns or self.b.shape[0] < rows:
            raise FewshotError(f"{self.place} has VeRA projections that are too small for its layers.", _AGAIN)
        self._check("vera_A", self.a, (rank, self.a.shape[1]))
        self._check("vera_B", self.b, (self.b.shape[0], rank))

    def _vera(self, layer: str, of_rows: Tensor, of_ranks: Tensor) -> LowRank:
        rows, columns = self.shapes[layer]
        self._check(layer, of_rows, (rows,))
        self._check(layer, of_ranks, (self.settings.r,))
        left = of_rows.unsqueeze(1) * self.b[:rows]
        return self._product(layer, left, of_ranks.unsqueeze(1) * self.a[:, :columns])

    def _product(self, layer: str, left: Tensor, right: Tensor) -> LowRank:
        if not left.shape[1] * float(left.abs().max()) * float(right.abs().max()) <= MOST_IN_A_PRODUCT:
            raise FewshotError(f"{self.place} changes {layer} by more than numbers hold.", "Train it again.")
        return LowRank(self.shapes[layer], left, right)

    def _check(self, layer: str, found: Tensor, wanted: tuple[int, ...]) -> None:
        if tuple(found.shape) != wanted:
            raise FewshotError(
                f"{self.place} has a tensor {tuple(found.shape)} for {layer} where {wanted} fits.",
                "Give --backbone the name of the model that it was trained on.",
            )


def _bound(fan: int) -> float:
    """Of the uniform distribution that PEFT draws VeRA's projections from, in PEFT's own order of rounding."""
    return math.sqrt(3.0) * (math.sqrt(2.0) / math.sqrt(fan))


def saved_changes(saved: Mapping[str, Tensor], module: nn.Module, place: Path) -> dict[str, Change]:
    """The delta to what an adapter brings whole, without the classifier; what is as in `module` is left out.

    Raises FewshotError for what the model doesn't have, and for what changes but is no parameter, as statistics.
    """
    own = module.state_dict()
    parameters = dict(module.named_parameters())
    changes: dict[str, Change] = {}
    for name, values in saved.items():
        if name not in own or own[name].shape != values.shape:
            raise FewshotError(
                f"{place} brings {name} {tuple(values.shape)}, which the model does not have.",
                "Give --backbone the name of the model that it was trained on.",
            )
        base = own[name].detach().cpu()
        if name in parameters:
            difference = values.float() - base
            if bool(difference.any()):
                changes[name] = smaller(difference.contiguous())
        elif not torch.equal(values.to(base.dtype), base):
            raise FewshotError(
                f"{place} changes {name}, which is no parameter: a delta file has changes of parameters only.",
                "Train it with the normalisation layers in eval mode.",
            )
    return changes


_SIMPLE = re.compile(r"[^*+{]*(?:(?<!\))[*+{][^*+{]*){0,3}")
"""Patterns that take no time: no repeated group, and no more than three repetitions."""


def _of_pattern(patterns: Mapping[str, Any], layer: str, usual: Any) -> Any:
    """What PEFT takes from rank_pattern or alpha_pattern for a layer: of the first regular expression that fits."""
    for pattern, value in patterns.items():
        if len(pattern) > 200 or not _SIMPLE.fullmatch(pattern):
            raise FewshotError(f"The pattern {pattern[:80]!r} in adapter_config.json is too involved.", "Name layers.")
        try:
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return value
        except re.error as error:
            raise FewshotError(
                f"The pattern {pattern!r} in adapter_config.json is no regular expression: {error}.", "Name layers."
            ) from None
    return usual
