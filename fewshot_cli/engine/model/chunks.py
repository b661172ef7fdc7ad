"""How many pictures go through a backbone at once, and fewer where memory runs out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from fewshot_cli.engine.device import is_out_of_memory, release_memory
from fewshot_cli.errors import FewshotError

T = TypeVar("T")

# Pixels in one frozen forward pass. A CPU gains nothing from more, and a network with large activations loses by it,
# above all where freed memory isn't kept (device.keep_freed_memory). A GPU wants much more at once.
CPU_PIXELS = 8 * 224 * 224
CPU_PICTURES = 32  # small ones: a pass is always filled, and more would be wasted on a handful of pictures
GPU_PIXELS = 256 * 224 * 224
GPU_TRAINED_PIXELS = 32 * 224 * 224  # with a gradient, for which the activations of every layer are kept


def frozen_chunk(device: torch.device, size: tuple[int, int]) -> int:
    """How many pictures of this height and width to embed at once, without a gradient."""
    pixels = size[0] * size[1]
    if device.type == "cpu":
        return min(CPU_PICTURES, max(1, CPU_PIXELS // pixels))
    return max(1, GPU_PIXELS // pixels)


def trained_chunk(device: torch.device, size: tuple[int, int]) -> int:
    """How many pictures of this height and width to send through at once with a gradient."""
    if device.type == "cpu":
        return frozen_chunk(device, size)
    return max(1, GPU_TRAINED_PIXELS // (size[0] * size[1]))


@dataclass
class ChunkLimit:
    """The most pictures at once that memory may be enough for; no limit until it has run out."""

    pictures: float = math.inf

    def within(self, wanted: int) -> int:
        """So many as are wanted, or as the limit allows."""
        return int(min(wanted, self.pictures))

    def halve(self, device: torch.device, tried: int, what: str) -> None:
        """Halves what was tried and found too much. Raises FewshotError where that was a single picture."""
        if tried <= 1:
            raise FewshotError(
                f"Memory is not enough for one picture at a time {what}.",
                "Use a smaller --image-size or another --backbone; end what else uses the GPU; or compute with "
                "--device cpu.",
            )
        self.pictures = tried // 2
        release_memory(device)

    def tried(self, work: Callable[[int], T], wanted: int, device: torch.device, what: str) -> T:
        """What `work` gives with so many pictures at once as are wanted, or as memory turns out to be enough for.

        `work` may be called several times. Raises FewshotError where memory is not enough for one at a time; `what`
        says of which passes, as the end of a sentence.
        """
        while True:
            chunk = self.within(wanted)
            try:
                return work(chunk)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Here, since what the failed work held is forgotten only when the clause above is left.
            self.halve(device, chunk, what)
