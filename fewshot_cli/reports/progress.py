"""Progress: bars in a terminal, and where none is a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class ProgressBars:
    """One bar with the time left, for the work being done; it disappears when the work is."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def track(self, what: str) -> Iterator[Callable[..., None]]:
        """A context in which the function it gives is told how many units are done, of how many, and a remark."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
        )
        with _Remarked(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(what, total=None, count="", remark="")

            def advance(done: int, total: int, remark: str = "") -> None:
                bars.update(task, completed=done, total=total, count=f"{done}/{total}", remark=remark)

            yield advance


class ProgressLines:
    """A line each minute, for the log of a job that nobody watches; what is done within a minute says nothing."""

    EVERY = 60.0
    """Seconds."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.clock = stream, clock
        self.last = clock()

    @contextmanager
    def track(self, what: str) -> Iterator[Callable[..., None]]:
        """A context in which the function it gives is told how many units are done, of how many, and a remark."""
        start, first = self.clock(), 0

        def advance(done: int, total: int, remark: str = "") -> None:
            nonlocal start, first
            now = self.clock()
            if done < first:  # it counts anew
                start, first = now, done
            if now - self.last >= self.EVERY:
                self.last = now
                left = (now - start) / (done - first) * (total - done) if done > first else None
                self._say(what, f"{done}/{total}", "" if left is None else f"about {_duration(left)} left", remark)

        yield advance

    def _say(self, *parts: str) -> None:
        words = filter(None, (" ".join(part.split()) for part in parts))
        print(time.strftime("%H:%M:%S"), *words, sep="  ", file=self.stream or sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Hours and minutes, of a short time seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


class _Remarked(Progress):
    """Bars with what is to be said of the work on lines of its own below, where there is room for it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["remark"], style="dim") for task in self.tasks if task.fields.get("remark"))
