"""Progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text


class Bars:
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


class _Remarked(Progress):
    """Bars with what is to be said of the work on lines of its own below, where there is room for it."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["remark"], style="dim") for task in self.tasks if task.fields.get("remark"))
