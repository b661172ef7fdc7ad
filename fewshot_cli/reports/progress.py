"""Progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Bars:
    """One bar with the time left, for the work being done; it disappears when the work is."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def track(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """A context in which the function it gives is called with how many units are done, and of how many."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(what, total=None, count="")
            yield lambda done, total: bars.update(task, completed=done, total=total, count=f"{done}/{total}")
