"""Backbones: a frozen model as a pure function from images to features."""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.device import sent
from fewshot_cli.engine.model.chunks import ChunkLimit, frozen_chunk, trained_chunk
from fewshot_cli.engine.params import Params


@dataclass(frozen=True)
class Backbone:
    """A frozen model without its classifier: `features(images)` and the weights that a delta is added to.

    `params` are timm's parameter names and values; `fingerprint` identifies the weights as they were read, before an
    image size other than the model's own resampled any of them. `overlay` are weights in place of the module's own.
    """

    name: str
    module: nn.Module = field(repr=False)
    preprocessing: Preprocessing
    dim: int
    source: Mapping[str, Tensor] = field(repr=False)
    licence: str
    overlay: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    classifier: frozenset[str] = frozenset()
    """The names in `source` that are the classifier's, and so take no part in features."""
    channels_last: bool = False
    """How the module's kernels lie in memory, and the images that it is given."""
    twin: nn.Module | None = field(default=None, repr=False)
    """The same module on a device that only does frozen passes, whose features then come here; None where none is."""
    frozen_limit: ChunkLimit = field(default_factory=ChunkLimit, repr=False, compare=False)
    trained_limit: ChunkLimit = field(default_factory=ChunkLimit, repr=False, compare=False)
    """What memory has turned out to be enough for, without a gradient and with one, by all that share the module."""

    @cached_property
    def params(self) -> Params:
        """The backbone's parameters by timm's names, with those that the overlay replaces."""
        own = {name: parameter.detach() for name, parameter in self.module.named_parameters()}
        return own | dict(self.overlay)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights that it was built from."""
        return fingerprint(self.source)

    @cached_property
    def body_fingerprint(self) -> str:
        """Identifies the weights without a classifier, the same whether or not the file that they were in had one."""
        if not self.classifier:
            return self.fingerprint
        return fingerprint({name: values for name, values in self.source.items() if name not in self.classifier})

    @cached_property
    def moved_fingerprint(self) -> str:
        """Identifies the weights that `moved` put in place of the base's; "" where it put none."""
        return fingerprint(self.overlay) if self.overlay else ""

    @cached_property
    def called(self) -> frozenset[str]:
        """The modules that a forward pass calls, by name: what a layer that it doesn't call computes, nobody sees.

        Some of timm's models take a layer's weight and compute with it themselves.
        """
        seen: set[str] = set()
        hooks = [
            part.register_forward_hook(lambda *_, name=name: seen.add(name))
            for name, part in self.module.named_modules()
        ]
        try:
            look_at_nothing(self)
        finally:
            for hook in hooks:
                hook.remove()
        return frozenset(seen)

    def moved(self, weights: Mapping[str, Tensor]) -> "Backbone":
        """The same backbone with `weights` in place of those of its own: same module, same `fingerprint`."""
        return replace(self, overlay=dict(self.overlay) | dict(weights))

    @property
    def device(self) -> torch.device:
        """The device that its parameters are on."""
        return next(iter(self.params.values())).device

    @property
    def embedding_device(self) -> torch.device:
        """Where frozen passes are done."""
        return self.device if self.twin is None else next(self.twin.parameters()).device

    @property
    def chunk(self) -> int:
        """How many pictures to embed at once."""
        return self.frozen_limit.within(frozen_chunk(self.embedding_device, self.preprocessing.size))

    @property
    def trained_chunk(self) -> int:
        """How many pictures to send through at once with a gradient, on this device."""
        return self.trained_limit.within(trained_chunk(self.device, self.preprocessing.size))

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(3, 1, 1)
        return mean, std

    def normalised(self, images: Tensor) -> Tensor:
        """What the model expects, float32 `(n, 3, height, width)`, of uint8 pictures of the same shape."""
        mean, std = self._scale
        return (sent(images, self.device).float() / 255 - mean) / std

    def features(self, images: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features `(n, dim)` of normalised images `(n, 3, height, width)`, with `weights` in place of the base's."""
        return self._through(self.module, images, dict(self.overlay) | dict(weights or {}))

    def _through(self, module: nn.Module, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if not weights:
            return module(images)  # type: ignore[no-any-return]
        everywhere = {place: values for name, values in weights.items() for place in self._places.get(name, (name,))}
        return functional_call(module, everywhere, (images,), tie_weights=False)  # type: ignore[no-any-return]

    def _embedded(self, images: Tensor, weights: Mapping[str, Tensor] | None) -> Tensor:
        if self.twin is None:
            return self.features(images, weights)
        there = self.embedding_device
        own = {name: values.to(there) for name, values in (weights or {}).items()}
        return self._through(self.twin, images.to(there), self._overlay_of_twin | own).to(self.device)

    @cached_property
    def _overlay_of_twin(self) -> Params:
        return {name: values.to(self.embedding_device) for name, values in self.overlay.items()}

    @cached_property
    def _places(self) -> dict[str, list[str]]:
        """Where each parameter is, one name for each layer that holds it.

        torch would find them itself, and leave the base changed where one layer has two names, as in CoaT.
        """
        first: dict[int, str] = {}
        found: dict[str, dict[tuple[int, str], str]] = {}
        for place, parameter in self.module.named_parameters(remove_duplicate=False):
            name = first.setdefault(id(parameter), place)
            holder, _, own = place.rpartition(".")
            found.setdefault(name, {}).setdefault((id(self.module.get_submodule(holder)), own), place)
        return {name: list(places.values()) for name, places in found.items()}

    @torch.no_grad()
    def frozen_features(self, pictures: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Features `(n, dim)` of uint8 pictures `(n, 3, height, width)`, in chunks and without a gradient."""
        if len(pictures) == 0:
            return torch.empty(0, self.dim, device=self.device)
        found, done = [], 0
        while done < len(pictures):

            def embedded(chunk: int, start: int = done) -> Tensor:
                return self._embedded(self.normalised(pictures[start : start + chunk]), weights)

            what = f"of {self.preprocessing.size[0]} pixels through {self.name}"
            found.append(self.frozen_limit.tried(embedded, self.chunk, self.embedding_device, what))
            done += len(found[-1])
        return torch.cat(found)


def with_twin(backbone: Backbone, device: torch.device) -> Backbone:
    """The backbone with its frozen passes on this device, and all else where it is."""
    return replace(backbone, twin=copy.deepcopy(backbone.module).to(device))


def look_at_nothing(backbone: Backbone) -> None:
    """Sends one black picture through the backbone, which shows whether it takes pictures of its size."""
    backbone.frozen_features(torch.zeros(1, 3, *backbone.preprocessing.size, dtype=torch.uint8))


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """The SHA-256, in hex, of names, shapes and float32 values of the weights, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_with(backbone: Backbone, weights: Mapping[str, Tensor]) -> Params:
    """The state of the backbone's module with `weights` in place of its own, by every name of a shared parameter."""
    state = backbone.module.state_dict() | dict(backbone.overlay) | dict(weights)
    names: dict[int, str] = {}
    for name, parameter in backbone.module.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        state[name] = state[first]
    return state


def merged_module(backbone: Backbone, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the backbone's module on the CPU, with `weights` in place of its own: what is exported."""
    module = copy.deepcopy(backbone.module).cpu().to(memory_format=torch.contiguous_format)
    module.load_state_dict({name: values.cpu() for name, values in state_with(backbone, weights).items()})
    return module
