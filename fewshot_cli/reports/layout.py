"""How results look in a terminal: the pieces that the reports share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from fewshot_cli.results import ExpectedAccuracy, Skipped, TowersDescription


def facts(*rows: tuple[str, str | Text]) -> Table:
    """A list of names and what they are, aligned."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def one_line(text: str, style: str = "") -> Text:
    """The text, cut at the end where there is no room for all of it."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def percent(share: float) -> str:
    """A share in [0, 1] in percent, with one decimal."""
    return f"{100 * share:.1f} %"


def interval(mean: float, low: float | None, high: float | None) -> str:
    """A share with its 95 % interval, as people read it."""
    return f"{percent(mean)}  (95 % interval {100 * (low or 0):.1f} to {100 * (high or 0):.1f} %)"


def expectation(expected: ExpectedAccuracy) -> str:
    """The accuracy to expect with its interval, or why it can't be known."""
    return expected.how if expected.mean is None else interval(expected.mean, expected.low, expected.high)


def size(count: int) -> str:
    """Bytes as people say them."""
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.1f} KB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def classes(names: Sequence[str], most: int = 8) -> str:
    """The first few names and how many more there are."""
    shown = ", ".join(names[:most])
    return f"{len(names)}: {shown}" + (f" and {len(names) - most} more" if len(names) > most else "")


def skipped_files(skipped: Sequence[Skipped], most: int = 10) -> list[tuple[str, str | Text]]:
    """A row for every file that could not be used, up to `most`."""
    rows: list[tuple[str, str | Text]] = [
        ("skipped", Text(f"{item.path}: {item.reason}", style="yellow")) for item in skipped[:most]
    ]
    if len(skipped) > most:
        rows.append(("skipped", Text(f"and {len(skipped) - most} more", style="yellow")))
    return rows


def left_out(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """A row for what lay among the pictures and was passed over; none where nothing did."""
    return [("passed over", passed_over(counts))] if counts else []


def passed_over(counts: Mapping[str, int], most: int = 5) -> str:
    """How many files and folders were passed over, and the names of most of them."""
    total = sum(counts.values())
    named = ", ".join(f"{name} ({count})" for name, count in list(counts.items())[:most])
    more = ", ..." if len(counts) > most else ""
    return f"{total} that systems and programs leave among pictures: {named}{more}"


def prepared(towers: TowersDescription) -> str:
    """How a two-tower backbone prepares pictures, in words."""
    crop = {
        "center": "the short side resized and the centre cropped",
        "squash": "both sides resized",
        "border": "the long side resized and the rest filled",
    }[towers.crop]
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (towers.mean, towers.std))
    return f"{crop}, {towers.interpolation}; normalised by mean ({mean}) and standard deviation ({std})"
