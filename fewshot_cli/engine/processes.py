"""One run in several processes: which of them this is, and what the others found. torchrun starts them."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """Process `rank` of `world`; alone unless torchrun started more."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Puts the sum over all processes in the place of each tensor."""
        if self.world > 1:
            for values in tensors:
                dist.all_reduce(values)

    def gather(self, found: Any) -> list[Any]:
        """What every process found, in the order of their ranks. It travels as JSON: nothing is unpickled."""
        if self.world == 1:
            return [found]
        content = torch.frombuffer(bytearray(json.dumps(found).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(content)]))
        longest = max(int(size) for size in sizes)
        padded = torch.cat([content, content.new_zeros(longest - len(content))])
        contents = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(contents, padded)
        return [_parsed(content, int(size)) for content, size in zip(contents, sizes, strict=True)]


def _parsed(content: Tensor, size: int) -> Any:
    return json.loads(content[:size].numpy().tobytes())


def is_first() -> bool:
    """Whether this is the process that prints and writes; of several, torchrun says so before they have met."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, joined over gloo, which needs no GPU; or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    dist.init_process_group("gloo", timeout=timedelta(days=7))  # whoever is done waits for the slowest
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
