"""Where tensors live. The only file that says "cuda"."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Protocol, TypeVar

import torch
import torch.distributed
from torch import Tensor

from fewshot_cli.errors import FewshotError

T = TypeVar("T")

_CPU, _APPLE = torch.device("cpu"), torch.device("mps")
GLOO = "gloo"


def choose_device(wanted: str = "auto") -> torch.device:
    """The device called `wanted`: "auto" is a GPU if there is one, else the CPU.

    "mps" is the GPU of Apple's chips. Of several others "auto" and "cuda" are the first, or for the processes that
    torchrun started on a machine one each.

    Raises FewshotError for a name that is not "auto", "cpu", "cuda", "cuda:N" or "mps", or a GPU that is not there.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return _own_gpu()
        return _APPLE if torch.backends.mps.is_available() else _CPU
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()) or (kind != "cuda" and number):
        raise FewshotError(f"There is no device called '{wanted}'.", "Use --device auto, cpu, cuda, cuda:N or mps.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise FewshotError(
            "Device 'mps' is not here: it is the GPU of Apple's chips, as macOS has it.",
            "Use --device cpu, or --device auto to take what there is.",
        )
    if kind == "cuda" and (not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count()):
        found = f"{torch.cuda.device_count()} found" if torch.cuda.is_available() else "none found"
        raise FewshotError(
            f"Device '{wanted}' is not here: {found}.", "Use --device cpu, or --device auto to take what there is."
        )
    return _own_gpu() if wanted == "cuda" else torch.device(wanted)


def home_of(device: torch.device) -> torch.device:
    """Where tensors live, and training is done, in a run on this device.

    That is the CPU where the device is the GPU of Apple's chips, which does frozen passes and no more: it has no
    float64, in which heads are solved.
    """
    return _CPU if device.type == "mps" else device


def _own_gpu() -> torch.device:
    """The GPU of this process."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


class Recorder(Protocol):
    """Records work on a device, so that it can be done again without Python."""

    def run(self, work: Callable[[], T], /) -> T:
        """Does the work once, where it would be recorded: what is loaded or chosen on first use is ready after it."""

    def record(self, work: Callable[[], T], /) -> Callable[[], T]:
        """What does the work again, on the same tensors and into the same result; recording doesn't do it."""


def recorder(device: torch.device) -> Recorder | None:
    """What records on this device; None where nothing does."""
    return _GraphRecorder(device) if device.type == "cuda" else None


class _GraphRecorder:
    """CUDA graphs, which share one pool of memory: a result holds until the next of them runs.

    Work runs and is recorded on one stream beside the current one, as torch's notes on CUDA graphs ask. Other threads
    may go on using the GPU meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], T], /) -> T:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], T], /) -> Callable[[], T]:
        graph = torch.cuda.CUDAGraph()
        recording = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with chosen(self._stream.device), recording:
            result = work()

        def replay() -> T:
            graph.replay()
            return result

        return replay


def runs_triton(device: torch.device) -> bool:
    """Whether kernels written in Triton run there."""
    return device.type == "cuda" and find_spec("triton") is not None


def chosen(device: torch.device) -> AbstractContextManager[object]:
    """A context in which kernels go to this device, where a process sees several."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def gpu_of(wanted: str) -> str:
    """Which GPU, of which machine, the device called `wanted` is; "" where it is none, or is not there."""
    try:
        device = choose_device(wanted)
    except FewshotError:  # which whoever chooses it will be told
        return ""
    if device.type != "cuda" or not torch.distributed.is_nccl_available():
        return ""
    return f"{platform.node()} {getattr(torch.cuda.get_device_properties(device), 'uuid', device.index)}"


def backends(gpus: Sequence[str]) -> str:
    """What processes with these GPUs exchange tensors over: NCCL among GPUs where each has its own, and gloo."""
    return "cpu:gloo,cuda:nccl" if all(gpus) and len(set(gpus)) == len(gpus) else GLOO


def take(wanted: str) -> None:
    """Has this process work on the GPU called `wanted`, as NCCL asks."""
    torch.cuda.set_device(choose_device(wanted))


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16: GPUs do from compute capability 8; others would only imitate it."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def release_memory(device: torch.device) -> None:
    """Gives back what freed tensors have left in torch's keeping, so that larger ones find room."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU had too little memory, which Apple's says in words only."""
    return isinstance(error, torch.OutOfMemoryError) or "MPS backend out of memory" in str(error)


def pinned(size: int) -> Tensor:
    """So many bytes, uint8, that a GPU reads by itself."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values of the CPU on the device; for a GPU Python does not wait until they are there."""
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Has this process keep the memory that tensors free, in place of giving it back after every layer.

    The GNU C library returns large blocks to the kernel at once, which then has to clear them when the next layer asks:
    a quarter of the time of EfficientNet-Lite0's forward pass. Nothing happens with other C libraries. For the command
    alone: a program that uses the engine as a library decides for itself.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_threshold, gigabyte = -1, -3, 1 << 30  # the names and numbers of <malloc.h>
    if mallopt is not None:
        for parameter in (mmap_threshold, trim_threshold):
            mallopt(parameter, gigabyte)
