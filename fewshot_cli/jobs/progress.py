"""How a job says how far it is; who shows it, and where, is not its business."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """Something that shows the progress of one piece of work at a time."""

    def track(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """A context in which the function it gives is called with how many units are done, and of how many."""


class Unseen:
    """Progress that nobody looks at."""

    @contextmanager
    def track(self, what: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: None
