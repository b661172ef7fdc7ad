"""SMAT's experts made ready for use: mixed by the router for a task, and added to the backbone's weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fewshot_cli.engine.defaults import RouterPool
from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, router_of
from fewshot_cli.engine.meta.smat.packed_gates import PackedGates
from fewshot_cli.engine.meta.smat.router import folded, route
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.params import Params


@dataclass(frozen=True)
class ExpertMixer:
    """A bank made ready for use: the same answers in a small part of memory and time."""

    delta: Tensor
    gates: PackedGates
    router: Params
    pool: RouterPool

    @classmethod
    def of(cls, bank: Params, settings: SMATSettings) -> "ExpertMixer":
        """The mixer of a bank's experts by its router."""
        packed = PackedGates.of(bank[LOGITS], settings.evaluation_beta)
        packed = packed.rounded() if settings.binary else packed
        return cls(bank[DELTA].detach(), packed, folded(router_of(bank)), settings.pool)

    @torch.no_grad()
    def change(self, prototypes: Tensor, temperature: float) -> Tensor:
        """What to add to the weights, `(size,)`, for the task with these prototypes of the frozen backbone."""
        return self.gates.mixed(self._weights(prototypes, temperature)) * self.delta

    @torch.no_grad()
    def merged(self, base: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
        """The weights `(size,)` for the task; `base` are the backbone's own."""
        return self.gates.merged(base, self.delta, self._weights(prototypes, temperature))

    def _weights(self, prototypes: Tensor, temperature: float) -> Tensor:
        return route(self.router, prototypes, temperature, self.pool).weights
