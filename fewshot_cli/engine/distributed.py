"""One run in several processes, which torchrun starts: rank, shares of the work, and exchange of results."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from fewshot_cli.engine.device import GLOO, backends, gpu_of, take
from fewshot_cli.errors import FewshotError

ARRIVAL, SILENCE = 600.0, 600.0
"""Seconds within which all processes come, and of silence after which one of them is taken for dead."""

_HERE, _BEAT, _GPU = "fewshot is here", "fewshot lives", "fewshot has"
_LEFT = 2**40  # added to its heartbeats by a process whose work is done: others may still be writing
_SIGNS_OF_AN_END = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Connection refused"),
    *("remote process exit", "NCCL communicator was aborted"),
)


@dataclass(frozen=True)
class Processes:
    """Process `rank` of `world`; alone unless torchrun started more."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
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
def joined(wanted: str = "cpu") -> Iterator[Processes]:
    """The processes that torchrun, or a scheduler, started, joined; or this one alone.

    What lies on a CPU goes over gloo. What lies on GPUs goes over NCCL, from one to the other, where every process has
    a GPU of its own by the name `wanted`; else over gloo, too.

    Raises FewshotError where the others don't come, and where one of them has ended, or been silent, before its work
    was done: whoever is done waits for the slowest, but not for one that is no more.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    store, found = _met()
    over = _agreed(store, found, wanted)
    if over != GLOO:
        take(wanted)
    dist.init_process_group(over, store=store, rank=found.rank, world_size=found.world, timeout=timedelta(days=7))
    try:
        with _heartbeat(found):
            yield found
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS_OF_AN_END):
            raise
        raise FewshotError(
            f"Another of the {found.world} processes of this run has ended before its work was done.",
            "Its own message says why. What was finished until then is kept where this command can go on.",
        ) from None
    finally:
        dist.destroy_process_group()


def _agreed(store: Any, processes: Processes, wanted: str) -> str:
    """What all processes exchange tensors over, which depends on the GPUs of all of them."""
    store.set(f"{_GPU}/{processes.rank}", gpu_of(wanted))
    return backends([store.get(f"{_GPU}/{rank}").decode() for rank in range(processes.world)])


def _met() -> tuple[Any, Processes]:
    """Where the processes exchange words, when all have come. Raises FewshotError where one doesn't."""
    world = int(os.environ["WORLD_SIZE"])
    patience = timedelta(seconds=ARRIVAL)
    try:
        store, rank, world = next(rendezvous("env://", timeout=patience))
        store.set(f"{_HERE}/{rank}", "")
        store.wait([f"{_HERE}/{other}" for other in range(world)], patience)
    except (RuntimeError, ValueError) as error:  # torch's errors of stores are RuntimeErrors, missing variables not
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise FewshotError(
            f"Of the {world} processes of this run not all have come within {ARRIVAL:.0f} seconds: {reason}",
            "The messages of the others say why. torchrun sets what they need to find each other: RANK, WORLD_SIZE, "
            "MASTER_ADDR and MASTER_PORT.",
        ) from None
    return store, Processes(rank, world)


@contextmanager
def _heartbeat(processes: Processes) -> Iterator[None]:
    """A context in which this process says all the time that it lives, and ends where another has stopped saying so.

    A process that ends closes its connections, which the others see at once. This is for one whose machine has gone.
    """
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(processes, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join(timeout=5)


def _beat(processes: Processes, done: threading.Event) -> None:
    heard = dict.fromkeys(range(processes.world), (0, time.monotonic()))
    with suppress(RuntimeError):  # the first process holds the store; when that has ended, its connections tell it
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*address, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=SILENCE))  # type: ignore[attr-defined]
        while not done.wait(SILENCE / 20):
            store.add(f"{_BEAT}/{processes.rank}", 1)
            for rank, (count, at) in heard.items():
                now = store.add(f"{_BEAT}/{rank}", 0)
                if now != count or now >= _LEFT:
                    heard[rank] = now, time.monotonic()
                elif time.monotonic() - at > SILENCE and not done.is_set():
                    silent = f"Process {rank} of {processes.world} has said nothing for {SILENCE:.0f} seconds"
                    print(f"Error: {silent}; this one, {processes.rank}, ends.", file=sys.stderr, flush=True)
                    os._exit(1)  # the main thread waits in gloo, which nothing interrupts
        store.add(f"{_BEAT}/{processes.rank}", _LEFT)
