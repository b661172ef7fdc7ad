"""The pictures of a comparison, as SVG that stands in a page, takes its colour of ink and has text as text."""

import io
import math
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from fewshot_cli.reports.layout import size
from fewshot_cli.reports.terminal.comparison import (
    OVER_ALL,
    columns,
    comparisons,
    duration,
    found,
    is_shown,
    meaning,
    points,
    ranked,
    row_names,
    score,
    sessions,
    shown_pairs,
    verdict,
)

Report = dict[str, Any]

INK = "#010203"  # stands for the colour of the page's text, which a dark page has light
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b5589a", "#c98500", "#3a9bd9", "#868686")
"""Okabe's and Ito's (2008), which the colour-blind tell apart, shifted to be seen on white and on black."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
WIDTH = 9.6  # inches
LONGEST = 26  # letters of a name in a picture

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that a picture is laid out alike everywhere
    "font.size": 9,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.8,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
    "lines.markersize": 5,
    "svg.fonttype": "none",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}


@dataclass(frozen=True)
class Plot:
    """A picture with its title and caption; the SVG holds in words what it shows, for those who don't see it."""

    name: str
    title: str
    caption: str
    svg: str


def plots(report: Report) -> list[Plot]:
    """Every picture that the report has data for. The same report gives the same bytes."""
    with style():
        return list(_plots(report))


def _plots(report: Report) -> Iterator[Plot]:
    methods = report["methods"]
    spoken = "; ".join(f"{recipe} {score(methods[recipe])}" for recipe in ranked(report))
    what = meaning(report)
    if len(methods) * len(report["rows"]) > 1:
        yield plot("accuracy", "Accuracy", what, f"In %, {OVER_ALL}: {spoken}.", accuracies(report))
    if report["pairs"]:
        told = "; ".join(
            f"{pair['first']} minus {pair['second']} {points(pair)}, {verdict(pair)}" for pair in shown_pairs(report)
        )
        yield plot("differences", "Differences", comparisons(report), f"{told}.", differences(report))
    if len({row["shots"] for row in report["rows"]}) > 1:
        yield plot("shots", "Accuracy by images per class", what, _spoken_rows(report), by_shots(report))
    if sessions(report):
        yield plot("sessions", "Accuracy by session", what, _spoken_rows(report), by_session(report))
    if report["pairs"]:
        told = "; ".join(
            f"{recipe} {score(method)} %, {size(round(method['bytes']))}, {duration(method['seconds'])}"
            for recipe, method in methods.items()
        )
        caption = "accuracy over all against what a task takes: the mean of its bytes, the median of its seconds"
        yield plot("costs", "Accuracy and what it costs", caption, f"{told}.", costs_of(report))


def _spoken_rows(report: Report) -> str:
    told = [
        f"{row}: " + ", ".join(f"{recipe} {score(found(report, recipe, row))}" for recipe in ranked(report))
        for row in row_names(report)
    ]
    return f"In %, {'; '.join(told)}."


def accuracies(report: Report) -> Figure:
    """Dots with their intervals: a panel for each data set and a line for each recipe; for one recipe a line each.

    Panels differ in where their axis begins, not in its scale: intervals may be compared.
    """
    if len(report["methods"]) == 1:
        return _one_recipe(report)
    shown: list[str | None] = columns(report)[-1:] + columns(report)[:-1]
    recipes = ranked(report)
    figure, panels = _panels(len(shown), 3, 0.22 * len(recipes) + 0.25, sharey=True)
    look = _looks(report)
    reaches = [_reach(found(report, recipe, row) for recipe in recipes) for row in shown]
    width = max(2.0, 1.12 * max(high - low for low, high in reaches))
    for axes, row, (low, high) in zip(panels, shown, reaches, strict=True):
        for place, recipe in enumerate(recipes):
            figures = found(report, recipe, row)
            _dot(axes, 100 * figures["accuracy"], place, figures["ci95"], look[recipe])
        axes.set_xlim((low + high - width) / 2, (low + high + width) / 2)
        axes.set_title(cut(row or OVER_ALL, 34))
        _names(axes, recipes)
    figure.supxlabel("accuracy in %", fontsize=9)
    return figure


def _one_recipe(report: Report) -> Figure:
    (recipe,) = report["methods"]
    shown = columns(report)
    figure, (axes,) = _panels(1, 1, 0.24 * len(shown) + 0.3)
    for place, row in enumerate(shown):
        figures = found(report, recipe, row)
        _dot(axes, 100 * figures["accuracy"], place, figures["ci95"], (COLOURS[row is None], MARKERS[row is None]))
        axes.annotate(
            score(figures), (1.01, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
        )
    _names(axes, [row or OVER_ALL for row in shown])
    axes.set_xlabel("accuracy in %")
    return figure


def differences(report: Report) -> Figure:
    """The paired differences over all with their intervals, about the line where two recipes are alike."""
    pairs = shown_pairs(report)
    figure, (axes,) = _panels(1, 1, 0.26 * len(pairs) + 0.35)
    for place, pair in enumerate(pairs):
        look = (COLOURS[0], "o") if is_shown(pair) else (COLOURS[-1], "s")
        _dot(axes, 100 * pair["difference"], place, pair["ci95"], look)
        axes.annotate(
            points(pair), (1.01, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
        )
    axes.axvline(0, color=INK, linewidth=1)
    _names(axes, [f"{cut(pair['first'])} − {cut(pair['second'])}" for pair in pairs], longest=60)
    axes.set_xlabel("difference in points: right of 0, the first is better")
    return figure


def by_shots(report: Report) -> Figure:
    """Accuracy against images per class: a panel for each data set (and session), a line for each recipe."""
    lines: dict[tuple[str, int | None], list[tuple[int, str]]] = {}
    for row in report["rows"]:
        if row["shots"] is not None:
            lines.setdefault((row["data"], row["session"]), []).append((row["shots"], row["name"]))
    named = {
        data if session is None else f"{data}, session {session}": sorted(line)
        for (data, session), line in lines.items()
    }
    figure = _curves(report, named, "images per class")
    ticks = sorted({shots for line in named.values() for shots, _ in line})
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda shots, _: f"{shots:g}"))
    return figure


def by_session(report: Report) -> Figure:
    """Accuracy against the session of a class-incremental run: a panel for each run, a line for each recipe."""
    number = {row["name"]: row["session"] for row in report["rows"]}
    named = {course.name: [(number[row], row) for row in course.rows] for course in sessions(report)}
    figure = _curves(report, named, "session")
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _curves(report: Report, lines: dict[str, list[tuple[int, str]]], what: str) -> Figure:
    figure, panels = _panels(len(lines), 3, 2.3)
    look = _looks(report)
    for axes, (name, line) in zip(panels, lines.items(), strict=True):
        for recipe in ranked(report):
            colour, marker = look[recipe]
            every = [found(report, recipe, row) for _, row in line]
            axes.errorbar(
                [x for x, _ in line],
                [100 * figures["accuracy"] for figures in every],
                [100 * (figures["ci95"] or 0) for figures in every],
                color=colour,
                marker=marker,
                linewidth=1.2,
                elinewidth=0.8,
            )
        axes.set_title(cut(name, 34))
        axes.set_xlabel(what)
    figure.supylabel("accuracy in %", fontsize=9)
    _key(figure, report)
    return figure


def costs_of(report: Report) -> Figure:
    """Accuracy over all against the bytes and the time that a task takes."""
    figure, panels = _panels(2, 2, 2.6, sharey=True)
    look = _looks(report)
    formats: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("bytes", "bytes per task", _short_bytes),
        ("seconds", "seconds per task", lambda seconds: f"{seconds:g}"),
    )
    for axes, (key, label, written) in zip(panels, formats, strict=True):
        for recipe, method in report["methods"].items():
            colour, marker = look[recipe]
            axes.errorbar(
                max(method[key], 1e-6),
                100 * method["accuracy"],
                100 * (method["ci95"] or 0),
                color=colour,
                marker=marker,
                markersize=7,
                elinewidth=1,
            )
        _log(axes, written)
        axes.set_xlabel(label)
    panels[0].set_ylabel("accuracy in %")
    _key(figure, report)
    return figure


def _log(axes: Axes, written: Callable[[float], str]) -> None:
    """A logarithmic axis that spans a power of ten at least, so that two ticks are seen."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    stretch = max(1.0, (12 / (high / low)) ** 0.5)
    axes.set_xlim(low / stretch, high * stretch)
    axes.xaxis.set_major_locator(LogLocator(numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: written(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short_bytes(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g}"


def _panels(count: int, most: int, height: float, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most so many side by side, each so many inches high."""
    rows = math.ceil(count / most)
    beside = math.ceil(count / rows)
    figure = Figure(figsize=(WIDTH, rows * (height + 0.45) + 0.5), layout="constrained")
    grid = figure.subplots(rows, beside, squeeze=False, sharey=sharey)
    panels = list(grid.flat)
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def _dot(axes: Axes, x: float, y: float, half_width: float | None, look: tuple[str, str]) -> None:
    colour, marker = look
    axes.errorbar(x, y, xerr=100 * (half_width or 0), color=colour, marker=marker, linestyle="none", elinewidth=1.6)


def _reach(every: Iterator[dict[str, Any]]) -> tuple[float, float]:
    """From the least to the greatest end of the intervals, in percent."""
    ends = [100 * (figures["accuracy"] + sign * (figures["ci95"] or 0)) for figures in every for sign in (-1, 1)]
    return min(ends), max(ends)


def _names(axes: Axes, names: Sequence[str], longest: int = LONGEST) -> None:
    """Names down the left side, the first on top."""
    axes.set_yticks(range(len(names)), [cut(name, longest) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _looks(report: Report) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each recipe, the same in every picture; no two of 77 have both."""
    return {
        recipe: (COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])
        for place, recipe in enumerate(report["methods"])
    }


def _key(figure: Figure, report: Report) -> None:
    """Which colour and marker is which recipe, below."""
    look = _looks(report)
    handles = [
        # matplotlib leaves out names that begin with an underscore
        Line2D([], [], color=look[recipe][0], marker=look[recipe][1], linestyle="none", label=f"\u200b{cut(recipe)}")
        for recipe in ranked(report)
    ]
    longest = max(len(cut(recipe)) for recipe in look)
    beside = min(len(handles), int(WIDTH / (0.6 + 0.075 * longest)))
    figure.legend(handles=handles, loc="outside lower center", ncols=beside, handletextpad=0.1)


def cut(name: str, longest: int = LONGEST) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


@contextmanager
def style() -> Iterator[None]:
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the user has set up
        mpl.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts draw the text
        yield


def plot(name: str, title: str, caption: str, told: str, figure: Figure) -> Plot:
    mpl.rcParams["svg.hashsalt"] = name
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return Plot(name, title, caption, _for_a_page(written.getvalue(), name, title, told))


def _for_a_page(svg: str, name: str, title: str, told: str) -> str:
    """The SVG without what only a file needs, with ids that no other picture in the page has, title and description."""
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _own(_local(key), value, name) for key, value in element.attrib.items()}
    del root.attrib["width"], root.attrib["height"]
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-desc"}
    for tag, content in (("desc", told), ("title", title)):
        words = ET.Element(tag, {"id": f"{name}-{tag}"})
        words.text = content
        root.insert(0, words)
    return ET.tostring(root, encoding="unicode")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-")
    return value.replace("url(#", f"url(#{name}-").replace(INK, "currentColor")
