"""Work recorded once for every size of its inputs, and done again without Python: CUDA graphs, where a GPU has them.

A SMAT step is thousands of small kernels, and Python can't launch them as fast as a GPU does them. torch.compile would
fuse some of them, but it does not follow a step that differentiates by hand; a graph records whatever is launched.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fewshot_cli.engine.device import Recorder
from fewshot_cli.engine.params import Params

T = TypeVar("T")

KEPT = 64
WARM_UPS = 2  # times that work is done by Python before it is recorded; what comes seldom is never recorded


class Captured(Generic[T]):
    """`step(inputs, **constants)`, recorded for every shape of the inputs, of which the `keep` last used are kept.

    Every call does the step once. It must be the same work for the same shapes and constants, draw no random numbers,
    not wait for the device, and read and write the same tensors besides its inputs each time. Its result must not need
    a gradient; what is returned are its `copied` tensors, so they stay as they are. Without a recorder it is a plain
    call.
    """

    def __init__(
        self,
        step: Callable[..., T],
        copied: Callable[[T], T],
        recorder: Recorder | None,
        device: torch.device,
        keep: int = KEPT,
    ) -> None:
        self._step, self._copied, self._recorder, self._device, self._keep = step, copied, recorder, device, keep
        self._runs: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, tuple[Params, Callable[[], T]]] = {}  # the one used last at the end
        self._buffers: Params = {}

    def __call__(self, inputs: Params, **constants: Hashable) -> T:
        if self._recorder is None:
            return self._step(inputs, **constants)
        key = _key(inputs, constants)
        held, replay = self._recordings.pop(key, (None, None))
        if held is None:
            held = {name: self._place(name, values) for name, values in inputs.items()}
        for name, values in inputs.items():
            held[name].copy_(values, non_blocking=True)
        if replay is None:
            work = partial(self._step, held, **constants)
            self._runs[key] += 1
            if self._runs[key] <= WARM_UPS:
                return self._recorder.run(work)
            replay = self._recorder.record(work)
        self._recordings[key] = held, replay
        if len(self._recordings) > self._keep:  # only now, so that there is always one that keeps the memory they share
            del self._recordings[next(iter(self._recordings))]
        return self._copied(replay())

    def is_recorded(self, inputs: Params, **constants: Hashable) -> bool:
        """Whether the next call with such inputs does nothing but replay."""
        return _key(inputs, constants) in self._recordings

    def _place(self, name: str, values: Tensor) -> Tensor:
        """Where a recording of this shape finds an input: at the start of one buffer for all shapes.

        When a larger buffer takes its place, recordings stay with the one they know.
        """
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < values.numel() or buffer.dtype != values.dtype:
            buffer = self._buffers[name] = torch.empty(values.numel(), dtype=values.dtype, device=self._device)
        return buffer[: values.numel()].view(values.shape)


def _key(inputs: Params, constants: Mapping[str, Hashable]) -> Hashable:
    shapes = tuple((name, values.shape, values.dtype) for name, values in inputs.items())
    return shapes, tuple(constants.items())
