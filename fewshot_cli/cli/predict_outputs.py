"""Where the rows of `predict` go as they come: files, and the terminal."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fewshot_cli.results import Prediction


@dataclass(frozen=True)
class Outputs:
    """The files that rows go to, and what CSV says: the `top` classes of each image, and each one of `classes`.

    With `sets` it has a column for the set of labels.
    """

    csv: Path | None
    jsonl: Path | None
    several: bool
    top: int | None
    classes: Sequence[str]
    sets: bool = False

    @property
    def paths(self) -> list[Path]:
        """The files that are given."""
        return [path for path in (self.csv, self.jsonl) if path is not None]

    @contextmanager
    def opened(self, shown: bool) -> Iterator[Callable[[Sequence["Prediction"]], None]]:
        """What takes rows; where they are `shown`, they go to standard output, too, a line each.

        Whoever interrupts is told where the rows so far are.
        """
        from fewshot_cli.reports.terminal.predict import JsonLines, Rows, line_of
        from fewshot_cli.storage.atomic import growing, is_stream, partial_path
        from fewshot_cli.storage.one_writer import one_writer

        def show(rows: Sequence["Prediction"]) -> None:
            sys.stdout.write("".join(f"{line_of(row)}\n" for row in rows))
            sys.stdout.flush()

        try:
            with ExitStack() as stack:
                for path in self.paths:
                    stack.enter_context(one_writer(path))
                sinks: list[Callable[[Sequence[Prediction]], None]] = [show] if shown else []
                if self.csv is not None:
                    lines = stack.enter_context(growing(self.csv))
                    sinks.append(Rows(lines, self.several, self.top, self.classes, self.sets).add)
                if self.jsonl is not None:
                    sinks.append(JsonLines(stack.enter_context(growing(self.jsonl))).add)

                def take(rows: Sequence["Prediction"]) -> None:
                    for sink in sinks:
                        sink(rows)

                yield take
        except KeyboardInterrupt as stop:
            partial = [partial_path(path) for path in self.paths if not is_stream(path)]
            if left := [str(path) for path in partial if path.is_file()]:
                stop.args = (f"the rows so far are in {' and '.join(left)}.",)
            raise


def listed_on_standard_input(paths: Sequence[Path]) -> list[Path]:
    """The paths, and in the place of - those that standard input lists, one a line."""
    found: list[Path] = []
    for path in paths:
        found += _lines() if str(path) == "-" else [path]
    return found


def _lines() -> list[Path]:
    import os

    from fewshot_cli.errors import FewshotError

    if sys.stdin.isatty():
        raise FewshotError(
            "- stands for paths on standard input, and that is a terminal.",
            "Pipe a list into it: ls *.jpg | fewshot predict FILE -",
        )
    names = [os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer]
    if any("\0" in name for name in names):
        raise FewshotError("A path on standard input holds a zero byte.", "List one path a line.")
    return [Path(name) for name in names if name]
