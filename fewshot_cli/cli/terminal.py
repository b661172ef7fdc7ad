"""What the commands print: results on standard output, progress on standard error."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar

from fewshot_cli.jobs.progress import NoProgress, Progress
from fewshot_cli.reports.printable import printable
from fewshot_cli.reports.rows import Rows, in_columns

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from fewshot_cli.results import Result

Shown = TypeVar("Shown", bound="Result | dict[str, Any]")

PLAIN_WIDTH = 10_000
"""Characters in a line where no terminal is: what reads them wants no line broken, however long a path is."""


def progress_on(quiet: bool) -> Progress:
    """Bars on standard error where that is a terminal, else a line each minute; nothing if somebody asked for quiet."""
    if quiet:
        return NoProgress()
    from fewshot_cli.reports.progress import ProgressBars, ProgressLines

    return ProgressBars(_console(sys.stderr)) if sys.stderr.isatty() else ProgressLines()


def show(result: Shown, as_json: bool, picture: "Callable[[Shown], RenderableType]") -> None:
    """Prints the result: as one JSON object, or as `picture` lays it out for people."""
    if as_json:
        _print_json(result if isinstance(result, dict) else result.report())
    else:
        console = _console(sys.stdout)
        with console.capture() as printed:
            console.print(picture(printable(result)))
        sys.stdout.write("\n".join(line.rstrip(" ") for line in printed.get().split("\n")))


def show_text(report: dict[str, Any], as_json: bool, picture: Callable[[dict[str, Any]], str]) -> None:
    """Prints the report as `show` does, where its picture is plain text; rich is not imported."""
    if as_json:
        _print_json(report)
    else:
        print(picture(printable(report)))


def show_rows(report: dict[str, Any], as_json: bool, picture: Callable[[dict[str, Any]], Rows]) -> None:
    """Prints the report as `show` does, where its picture is rows of a name and what it is; rich is not imported."""
    if as_json:
        _print_json(report)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        styled = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        print(in_columns(picture(printable(report)), width, styled))


def _print_json(report: dict[str, Any]) -> None:
    text = json.dumps(report, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:  # a locale without these letters, or a file's name that is no UTF-8
        text = json.dumps(report)
    sys.stdout.write(text + "\n")


def _console(stream: TextIO) -> "Console":
    """A console that takes names for what they are, not for markup; without colour or weight where NO_COLOR says so."""
    from rich.console import Console

    width = None if stream.isatty() else PLAIN_WIDTH
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, color_system=colours)
