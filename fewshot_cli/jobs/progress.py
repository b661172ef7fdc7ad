"""The protocol by which a job reports its progress; the caller decides how it is shown."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Hears how many units are done, of how many, and a remark on how it goes."""

    def __call__(self, done: int, total: int, remark: str = "") -> None: ...


class Progress(Protocol):
    """Something that shows the progress of one piece of work at a time."""

    def track(self, what: str) -> AbstractContextManager[Advance]:
        """A context in which the function it gives is told how far the work is."""


class NoProgress:
    """No progress is shown."""

    @contextmanager
    def track(self, what: str) -> Iterator[Advance]:
        yield lambda done, total, remark="": None
