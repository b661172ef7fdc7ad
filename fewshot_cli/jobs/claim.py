"""An output that belongs to one command at a time, also where that command runs in several processes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fewshot_cli.engine.distributed import Processes
from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.atomic import check_writable
from fewshot_cli.storage.one_writer import one_writer


@contextmanager
def claimed(output: Path, processes: Processes, check: Callable[[Path], None] = check_writable) -> Iterator[None]:
    """The first process makes the output its own until the end of the `with`, once it has passed the `check`.

    Raises FewshotError in every process where it can't.
    """
    problem: tuple[str, str] | None = None
    with ExitStack() as stack:
        if processes.is_first:
            try:
                check(output)
                stack.enter_context(one_writer(output))
            except FewshotError as error:
                problem = (error.problem, error.hint)
        found, *_ = processes.gather(problem)
        if found:
            raise FewshotError(*found)
        yield
