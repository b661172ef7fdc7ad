"""All parameters of a module in one flat buffer, where deltas are applied and undone in place, exactly."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fewshot_cli.engine.delta.change import Change, Delta, Dense, LowRank, Sparse, all_values, on_device
from fewshot_cli.engine.model.flat_params import Layout

BLOCK = 1 << 14
"""Values that a CPU changes at once: what reading has brought into its cache is there for writing."""


@dataclass(frozen=True)
class Prepared:
    """A delta ready for the buffer: `values` `(k,)` at flat `positions` `(k,)`, and changes of whole parameters."""

    positions: Tensor
    values: Tensor
    whole: tuple[tuple[slice, Dense | LowRank], ...]


def _room(size: int, device: torch.device) -> Tensor:
    """Memory `(size,)` float32. On a CPU numpy's, which asks Linux for large pages: scattering is a sixth faster."""
    if device.type != "cpu":
        return torch.empty(size, device=device)
    return torch.from_numpy(np.empty(size, np.float32))


def _device_of(change: Change) -> torch.device:
    return (change.left if isinstance(change, LowRank) else change.values).device


class ParameterBuffer:
    """The parameters of `module` as views of the vector `flat` `(size,)` float32, on the device where they were.

    They lie one after the other, row by row whatever their memory format was, as the positions of deltas count. The
    module itself runs on them: what is applied here is what it computes with. At most one delta is on at a time; the
    values that it overwrites are kept, and putting them back leaves every bit as it was.

    Weights are the same to the bit. Answers are the same to rounding: where a convolution's weights lay channels-last,
    some processors take another kernel for rows.
    """

    @torch.no_grad()
    def __init__(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        self.layout = Layout.of(parameters)
        self.flat = _room(self.layout.size, next(iter(parameters.values())).device)
        self.applied: Prepared | None = None
        self._kept = self.flat.new_empty(0)
        self._kept_whole: list[Tensor] = []
        for name, view in self.layout.views(self.flat).items():
            parameters[name].data = view.copy_(parameters[name])

    def prepared(self, delta: Delta) -> Prepared:
        """The delta, ready to be applied here any number of times; its parameters have the shapes they have here."""
        places = {name: self.layout.slices[name] for name in self.layout.names if name in delta}
        if any(_device_of(change) != self.flat.device for change in delta.values()):
            delta = on_device(delta, self.flat.device)
        few = [(place.start, change) for name, place in places.items() if isinstance(change := delta[name], Sparse)]
        values = torch.cat([self.flat.new_empty(0), *(change.values for _, change in few)])
        positions = torch.empty(len(values), dtype=torch.int64, device=values.device)
        parts = torch.split(positions, [len(change.positions) for _, change in few])
        for part, (start, change) in zip(parts, few, strict=True):
            torch.add(change.positions, start, out=part)
        return Prepared(
            positions,
            values,
            tuple((place, change) for name, place in places.items() if not isinstance(change := delta[name], Sparse)),
        )

    @torch.no_grad()
    def apply(self, prepared: Prepared) -> None:
        """Puts the delta on the base, in place of the one that is on.

        Every value is the base's plus its change, rounded once: to the bit what `deltas.merge` gives.
        """
        if prepared is self.applied:
            return
        self.restore()
        self._kept = torch.empty_like(prepared.values)
        size = BLOCK if self.flat.device.type == "cpu" else max(1, len(prepared.values))
        blocks = (torch.split(part, size) for part in (prepared.positions, prepared.values, self._kept))
        for positions, values, kept in zip(*blocks, strict=True):
            torch.index_select(self.flat, 0, positions, out=kept)
            self.flat.scatter_(0, positions, kept + values)
        self._kept_whole = [self.flat[place].clone() for place, _ in prepared.whole]
        for place, change in prepared.whole:
            self.flat[place].view(change.shape).add_(all_values(change))
        self.applied = prepared

    @torch.no_grad()
    def restore(self) -> None:
        """Takes off what is on: every bit is the base's again."""
        if self.applied is None:
            return
        self.flat.scatter_(0, self.applied.positions, self._kept)
        for (place, _), kept in zip(self.applied.whole, self._kept_whole, strict=True):
            self.flat[place].copy_(kept)
        self.applied, self._kept_whole = None, []
