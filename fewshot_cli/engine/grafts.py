"""Grafts: modules hung into a backbone where what a method does is no sum with its weights."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

HOLDER = "graft"
"""The name of the submodule that holds a graft's parameters, beside those of the backbone."""

Output: TypeAlias = Callable[[str, Mapping[str, Tensor], Tensor, Tensor], Tensor]
"""From a site, the graft's parameters, and the site's inputs and outputs: what takes the place of the outputs."""


class GraftKind(Protocol):
    """One kind of graft with its settings; the parameters are kept apart."""

    @property
    def name(self) -> str: ...

    def shapes(self, sites: Mapping[str, nn.Module]) -> dict[str, tuple[int, ...]]:
        """The shapes of its parameters on these modules of a backbone; raises ValueError where it does not fit one."""

    def output(self, site: str, params: Mapping[str, Tensor], inputs: Tensor, outputs: Tensor) -> Tensor:
        """What takes the place of the `outputs` of a site that was given `inputs`."""

    def width(self, dim: int) -> int:
        """How long the features are that a backbone of `dim` has with it."""

    @property
    def why_not_merged(self) -> str:
        """The reason, as the end of a sentence, why no change of weights does the same."""

    def model_dump(self) -> dict[str, Any]:
        """The settings, with the name of the kind."""


@dataclass(frozen=True)
class Graft:
    """A graft on the modules `sites`, timm's names; "" is the backbone itself, whose outputs are the features."""

    kind: GraftKind
    sites: tuple[str, ...]
    params: Mapping[str, Tensor]

    def to(self, device: torch.device) -> "Graft":
        """The graft with its parameters on the device."""
        return replace(self, params={name: values.to(device) for name, values in self.params.items()})


def sites_of(module: nn.Module, sites: Sequence[str]) -> dict[str, nn.Module]:
    """The modules of these names; raises ValueError for a name that the module does not have, or has twice."""
    parts = dict(module.named_modules())
    for site in sites:
        if site not in parts or sites.count(site) > 1:
            raise ValueError(f"there is no module {site!r} to hang a graft on once")
    return {site: parts[site] for site in sites}


def check_graft(graft: Graft, module: nn.Module) -> None:
    """Raises ValueError unless the graft has the parameters, and these the shapes, that `module` asks for."""
    wanted = graft.kind.shapes(sites_of(module, graft.sites))
    found = {name: tuple(values.shape) for name, values in graft.params.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(f"{name} is {found.get(name)}, not {wanted.get(name)}")


def hung(module: nn.Module, sites: Sequence[str], params: Mapping[str, Tensor], output: Output) -> nn.Module:
    """A copy of the module's tree with a graft on it; its parameters and buffers are shared with the original.

    The base's names stay as they are. The graft's parameters are called as `holder_names` says, so that
    `functional_call` reaches them, and copies and exports take them along.
    """
    shared = [*module.parameters(), *module.buffers()]
    grown = copy.deepcopy(module, {id(values): values for values in shared})
    holder = _Holder(params)
    grown.add_module(HOLDER, holder)
    for site, part in sites_of(grown, sites).items():
        part.register_forward_hook(_Hook(site, holder, output))
    return grown


def holder_names(params: Mapping[str, Any]) -> dict[str, str]:
    """What the grown module calls each parameter of the graft: their own names have dots."""
    return {name: f"{HOLDER}.p{i}" for i, name in enumerate(sorted(params))}


class _Holder(nn.Module):
    def __init__(self, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {name: key.removeprefix(f"{HOLDER}.") for name, key in holder_names(params).items()}
        for name, key in self.names.items():
            self.register_parameter(key, nn.Parameter(params[name].detach(), requires_grad=False))

    def now(self) -> dict[str, Tensor]:
        """The parameters by the graft's own names, as they are in this forward pass."""
        return {name: getattr(self, key) for name, key in self.names.items()}


class _Hook:
    """A forward hook that a deep copy of the module binds to the copied parameters, as no closure would."""

    def __init__(self, site: str, holder: _Holder, output: Output) -> None:
        self.site, self.holder, self.output = site, holder, output

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        return self.output(self.site, self.holder.now(), inputs[0], outputs)
