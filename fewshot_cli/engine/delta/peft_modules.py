"""What an adapter of PEFT does to a timm model, as a delta: LoRA, SHiRA, VeRA. engine.adapters goes the other way."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from fewshot_cli.engine.delta.change import Change, LowRank, Sparse, smaller
from fewshot_cli.engine.delta.peft_adapter import KINDS, LINEAR, PREFIX, layer_kinds
from fewshot_cli.errors import FewshotError

MOST_IN_A_PRODUCT = 1e38
"""Of factors: a third of what float32 holds."""
MOST_RANK = 2**14
"""Of VeRA, whose projections take memory for each rank."""


class AdapterSettings(BaseModel):
    """The part of adapter_config.json that decides what an adapter does when it answers."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    peft_type: str
    r: int = Field(default=8, ge=1)
    lora_alpha: float = 8
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    projection_prng_key: int | None = Field(default=None, ge=-(2**63), lt=2**64)
    save_projection: bool = True

    def scale(self, layer: str, rank: int) -> float:
        """What LoRA multiplies its change of a layer by."""
        alpha = float(_of_pattern(self.alpha_pattern or {}, layer, self.lora_alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def rank(self, layer: str) -> int:
        """The rank of the adapter at a layer."""
        return int(_of_pattern(self.rank_pattern or {}, layer, self.r))


TENSORS = {
    "LORA": ("lora_A.weight", "lora_B.weight"),
    "SHIRA": ("shira_weight", "shira_indices"),
    "VERA": ("vera_lambda_b", "vera_lambda_d"),
}
"""How the names of the tensors of a layer end, by kind of adapter."""
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
class PeftChanges:
    """What an adapter does to a model: the delta of its layers, and what it brings whole, by timm's names."""

    delta: dict[str, Change]
    saved: dict[str, Tensor]


def changes_of(
    settings: AdapterSettings,
    tensors: Mapping[str, Tensor],
    module: nn.Module,
    place: Path,
    called: Collection[str] | None = None,
) -> PeftChanges:
    """What the adapter in `place` with these tensors does to `module`, which calls the layers `called`, else all.

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
    read = _Reader(settings, place, _shapes(layers, kind, module, place, called))
    if kind == "VERA":
        read.project(projections)
    return PeftChanges({f"{layer}.weight": read.change(layer, layers[layer]) for layer in layers}, saved)


def _shapes(
    layers: Mapping[str, Mapping[str, Tensor]],
    kind: str,
    module: nn.Module,
    place: Path,
    called: Collection[str] | None,
) -> dict[str, tuple[int, ...]]:
    """The shape of each layer's weight. Raises FewshotError unless the model has them all, of a kind that fits."""
    parts, kinds = dict(module.named_modules()), layer_kinds(module, called)
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
        if rank > MOST_RANK:  # so that a line in a config can't ask for any amount of memory
            raise FewshotError(f"{self.place} has a rank of {rank}; at most {MOST_RANK} are read.", INSTEAD)
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
