"""The pictures of a comparison."""

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from fewshot_cli.reports.comparison import (
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
from fewshot_cli.reports.figures.panels import dot, legend, log_axis, looks, names_down, reach, side_by_side
from fewshot_cli.reports.figures.style import COLOURS, INK, MARKERS, Plot, cut, plot, style
from fewshot_cli.reports.layout import size
from fewshot_cli.results import ComparisonResult


def plots(result: ComparisonResult) -> list[Plot]:
    """Every picture that the report has data for. The same report gives the same bytes."""
    with style():
        return list(_plots(result))


def _plots(result: ComparisonResult) -> Iterator[Plot]:
    methods = result.methods
    spoken = "; ".join(f"{recipe} {score(methods[recipe])}" for recipe in ranked(result))
    what = meaning(result)
    if len(methods) * len(result.rows) > 1:
        yield plot("accuracy", "Accuracy", what, f"In %, {OVER_ALL}: {spoken}.", accuracies(result))
    if result.pairs:
        told = "; ".join(
            f"{pair.first} minus {pair.second} {points(pair)}, {verdict(pair)}" for pair in shown_pairs(result)
        )
        yield plot("differences", "Differences", comparisons(result), f"{told}.", differences(result))
    if len({row.shots for row in result.rows}) > 1:
        yield plot("shots", "Accuracy by images per class", what, _spoken_rows(result), by_shots(result))
    if sessions(result):
        yield plot("sessions", "Accuracy by session", what, _spoken_rows(result), by_session(result))
    if result.pairs:
        told = "; ".join(
            f"{recipe} {score(method)} %, {size(round(method.bytes))}, {duration(method.seconds)}"
            for recipe, method in methods.items()
        )
        caption = "accuracy over all against what a task takes: the mean of its bytes, the median of its seconds"
        yield plot("costs", "Accuracy and what it costs", caption, f"{told}.", costs_of(result))


def _spoken_rows(result: ComparisonResult) -> str:
    told = [
        f"{row}: " + ", ".join(f"{recipe} {score(found(result, recipe, row))}" for recipe in ranked(result))
        for row in row_names(result)
    ]
    return f"In %, {'; '.join(told)}."


def accuracies(result: ComparisonResult) -> Figure:
    """Dots with their intervals: a panel for each data set and a line for each recipe; for one recipe a line each.

    Panels differ in where their axis begins, not in its scale: intervals may be compared.
    """
    if len(result.methods) == 1:
        return _one_recipe(result)
    shown: list[str | None] = columns(result)[-1:] + columns(result)[:-1]
    recipes = ranked(result)
    figure, panels = side_by_side(len(shown), 3, 0.22 * len(recipes) + 0.25, sharey=True)
    look = looks(result)
    reaches = [reach(found(result, recipe, row) for recipe in recipes) for row in shown]
    width = max(2.0, 1.12 * max(high - low for low, high in reaches))
    for axes, row, (low, high) in zip(panels, shown, reaches, strict=True):
        for place, recipe in enumerate(recipes):
            figures = found(result, recipe, row)
            dot(axes, 100 * figures.accuracy, place, figures.ci95, look[recipe])
        axes.set_xlim((low + high - width) / 2, (low + high + width) / 2)
        axes.set_title(cut(row or OVER_ALL, 34))
        names_down(axes, recipes)
    figure.supxlabel("accuracy in %", fontsize=9)
    return figure


def _one_recipe(result: ComparisonResult) -> Figure:
    (recipe,) = result.methods
    shown = columns(result)
    figure, (axes,) = side_by_side(1, 1, 0.24 * len(shown) + 0.3)
    for place, row in enumerate(shown):
        figures = found(result, recipe, row)
        dot(axes, 100 * figures.accuracy, place, figures.ci95, (COLOURS[row is None], MARKERS[row is None]))
        axes.annotate(
            score(figures), (1.01, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
        )
    names_down(axes, [row or OVER_ALL for row in shown])
    axes.set_xlabel("accuracy in %")
    return figure


def differences(result: ComparisonResult) -> Figure:
    """The paired differences over all with their intervals, about the line where two recipes are alike."""
    pairs = shown_pairs(result)
    figure, (axes,) = side_by_side(1, 1, 0.26 * len(pairs) + 0.35)
    for place, pair in enumerate(pairs):
        look = (COLOURS[0], "o") if is_shown(pair) else (COLOURS[-1], "s")
        dot(axes, 100 * pair.difference, place, pair.ci95, look)
        axes.annotate(
            points(pair), (1.01, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False
        )
    axes.axvline(0, color=INK, linewidth=1)
    names_down(axes, [f"{cut(pair.first)} − {cut(pair.second)}" for pair in pairs], longest=60)
    axes.set_xlabel("difference in points: right of 0, the first is better")
    return figure


def by_shots(result: ComparisonResult) -> Figure:
    """Accuracy against images per class: a panel for each data set (and session), a line for each recipe."""
    named: dict[str, list[tuple[int, str]]] = {}
    for row in result.rows:
        if row.shots is not None:
            session = None if row.session is None else f"session {row.session}"
            line = ", ".join(filter(None, (row.data, row.group, session)))
            named.setdefault(line, []).append((row.shots, row.name))
    named = {name: sorted(line) for name, line in named.items()}
    figure = _curves(result, named, "images per class")
    ticks = sorted({shots for line in named.values() for shots, _ in line})
    for axes in figure.axes:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda shots, _: f"{shots:g}"))
    return figure


def by_session(result: ComparisonResult) -> Figure:
    """Accuracy against the session of a class-incremental run: a panel for each run, a line for each recipe."""
    number = {row.name: row.session or 0 for row in result.rows}
    named = {course.name: [(number[row], row) for row in course.rows] for course in sessions(result)}
    figure = _curves(result, named, "session")
    for axes in figure.axes:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _curves(result: ComparisonResult, lines: dict[str, list[tuple[int, str]]], what: str) -> Figure:
    figure, panels = side_by_side(len(lines), 3, 2.3)
    look = looks(result)
    for axes, (name, line) in zip(panels, lines.items(), strict=True):
        for recipe in ranked(result):
            colour, marker = look[recipe]
            every = [found(result, recipe, row) for _, row in line]
            axes.errorbar(
                [x for x, _ in line],
                [100 * figures.accuracy for figures in every],
                [100 * (figures.ci95 or 0) for figures in every],
                color=colour,
                marker=marker,
                linewidth=1.2,
                elinewidth=0.8,
            )
        axes.set_title(cut(name, 34))
        axes.set_xlabel(what)
    figure.supylabel("accuracy in %", fontsize=9)
    legend(figure, result)
    return figure


def costs_of(result: ComparisonResult) -> Figure:
    """Accuracy over all against the bytes and the time that a task takes."""
    figure, panels = side_by_side(2, 2, 2.6, sharey=True)
    look = looks(result)
    formats: tuple[tuple[str, str, Callable[[float], str]], ...] = (
        ("bytes", "bytes per task", _short_bytes),
        ("seconds", "seconds per task", lambda seconds: f"{seconds:g}"),
    )
    for axes, (key, label, written) in zip(panels, formats, strict=True):
        for recipe, method in result.methods.items():
            colour, marker = look[recipe]
            axes.errorbar(
                max(getattr(method, key), 1e-6),
                100 * method.accuracy,
                100 * (method.ci95 or 0),
                color=colour,
                marker=marker,
                markersize=7,
                elinewidth=1,
            )
        log_axis(axes, written)
        axes.set_xlabel(label)
    panels[0].set_ylabel("accuracy in %")
    legend(figure, result)
    return figure


def _short_bytes(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= unit:
            return f"{count / unit:g} {name}"
    return f"{count:g}"
