"""A faster way of taking steps on a GPU, which a meta-method may have; the engine's loop knows nothing more of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from fewshot_cli.engine.device import Recorder

Kernels = TypeVar("Kernels")


@dataclass(frozen=True)
class FastPath(Generic[Kernels]):
    """A method's own kernels, what records its steps, and who is told where a step falls back to the plain one."""

    kernels: Kernels
    recorder: Recorder
    warn: Callable[[str], None]
