"""The parts of pictures of comparisons: panels, dots with intervals, names, and the key to colours and markers."""

import math
from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from fewshot_cli.reports.comparison import ranked
from fewshot_cli.reports.figures.style import COLOURS, LONGEST, MARKERS, WIDTH, cut
from fewshot_cli.results import ComparisonResult, Figures


def log_axis(axes: Axes, written: Callable[[float], str]) -> None:
    """A logarithmic axis that spans a power of ten at least, so that two ticks are seen."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    stretch = max(1.0, (12 / (high / low)) ** 0.5)
    axes.set_xlim(low / stretch, high * stretch)
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def side_by_side(count: int, most: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most so many side by side, each so many inches high."""
    rows = math.ceil(count / most)
    beside = math.ceil(count / rows)
    figure = Figure(figsize=(WIDTH, rows * (height + 0.45) + 0.5), layout="constrained")
    grid = figure.subplots(rows, beside, squeeze=False, sharey=sharey)
    panels = list(grid.flat)
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def dot(axes: Axes, x: float, y: float, half_width: float | None, look: tuple[str, str]) -> None:
    """Draws a mean as a point, with its 95 % interval as a bar."""
    colour, marker = look
    axes.errorbar(x, y, xerr=100 * (half_width or 0), color=colour, marker=marker, linestyle="none", elinewidth=1.6)


def reach(every: Iterable[Figures]) -> tuple[float, float]:
    """From the least to the greatest end of the intervals, in percent."""
    ends = [100 * (figures.accuracy + sign * (figures.ci95 or 0)) for figures in every for sign in (-1, 1)]
    return min(ends), max(ends)


def names_down(axes: Axes, names: Sequence[str], longest: int = LONGEST) -> None:
    """Names down the left side, the first on top."""
    axes.set_yticks(range(len(names)), [cut(name, longest) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def looks(result: ComparisonResult) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each recipe, the same in every picture; no two of 77 have both."""
    return {
        recipe: (COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, recipe in enumerate(result.methods)
    }


def legend(figure: Figure, result: ComparisonResult) -> None:
    """Which colour and marker is which recipe, below."""
    look = looks(result)
    handles = [
        # matplotlib leaves out names that begin with an underscore
        Line2D([], [], color=look[recipe][0], marker=look[recipe][1], linestyle="none", label=f"\u200b{cut(recipe)}")
        for recipe in ranked(result)
    ]
    longest = max(len(cut(recipe)) for recipe in look)
    beside = min(len(handles), int(WIDTH / (0.6 + 0.075 * longest)))
    figure.legend(handles=handles, loc="outside lower center", ncols=beside, handletextpad=0.1)
