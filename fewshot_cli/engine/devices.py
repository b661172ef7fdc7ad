"""Where tensors live. The only file that says "cuda"."""

import ctypes
import os
import sys

import torch

from fewshot_cli.errors import FewshotError

_CPU = torch.device("cpu")


def choose_device(wanted: str = "auto") -> torch.device:
    """The device called `wanted`: "auto" is a GPU if there is one, else the CPU.

    Of several GPUs it is the first, or for the processes that torchrun started on a machine one each.

    Raises FewshotError for a name that is not "auto", "cpu", "cuda" or "cuda:N", or a GPU that is not there.
    """
    if wanted == "auto":
        here = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", here % torch.cuda.device_count()) if torch.cuda.is_available() else _CPU
    kind, _, number = wanted.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()) or (kind == "cpu" and number):
        raise FewshotError(f"There is no device called '{wanted}'.", "Use --device auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and (not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count()):
        found = f"{torch.cuda.device_count()} found" if torch.cuda.is_available() else "none found"
        raise FewshotError(
            f"Device '{wanted}' is not here: {found}.", "Use --device cpu, or --device auto to take what there is."
        )
    return torch.device(wanted)


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
