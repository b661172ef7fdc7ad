"""The picture of a bank: how dense each layer is in each expert, and how far the experts overlap."""

import io
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from fewshot_cli.reports.figures.style import COLOURS, INK, WIDTH, Plot, cut, plot, style
from fewshot_cli.reports.printable import printable
from fewshot_cli.reports.terminal.bank import number, root_mean_square, summary
from fewshot_cli.results import InspectBankResult, LayerFacts

COLOUR_MAP = "viridis"  # rises evenly in lightness, for the colour-blind and in grey too
MOST_EXPERTS = 64
MOST_NUMBERED = 10
"""Experts whose cells have room for numbers."""
MOST_LAYERS = 100
GAP = 0.05  # between cells, as a share of one

Cells = Sequence[Sequence[float | None]]


def picture(result: InspectBankResult, form: str) -> bytes:
    """The picture as a file, `svg` or `png`. The same bank gives the same bytes."""
    written = io.BytesIO()
    result = printable(result)
    with style():
        mpl.rcParams["svg.hashsalt"] = "bank"
        figure = drawn(result)
        title = f"{cut(result.backbone, 40)}: {summary(result)}\n"  # with a line of space
        figure.suptitle(title, x=0.005, ha="left", fontsize=11, fontweight="bold", linespacing=0.6)
        metadata = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(written, format=form, dpi=160, facecolor="white", metadata=metadata)
    return written.getvalue()


def picture_in_page(result: InspectBankResult) -> Plot:
    """The picture as it stands in a page."""
    with style():
        layers = "; ".join(
            f"{layer.name} {', '.join(number(share) for share in layer.density)}" for layer in result.layers
        )
        return plot("bank", "Layers and experts", caption(result), f"Changed, in %: {layers}.", drawn(result))


def caption(result: InspectBankResult) -> str:
    """What the picture shows."""
    if not result.experts:
        return "the root mean square of each layer's change"
    left = "left: the share of a layer's weights whose gate an expert opens"
    if result.experts == 1:
        return left.removeprefix("left: ")
    cut_off = f"; the first {MOST_EXPERTS} of {result.experts} experts" if result.experts > MOST_EXPERTS else ""
    return f"{left}; right: the gates that two experts both open, as a share of those that either opens{cut_off}"


def drawn(result: InspectBankResult) -> Figure:
    """Both heat maps side by side; of one expert the first only, of a dense bank bars of its layers' changes."""
    layers = result.layers[:MOST_LAYERS]
    layout = ConstrainedLayoutEngine(h_pad=0.1)
    figure = Figure(figsize=(WIDTH, max(3.4, 0.22 * len(layers) + 1.3)), layout=layout)
    if not result.experts:
        _changes(figure.subplots(), layers)
    elif result.experts == 1:
        _densities(figure.subplots(), layers)
    else:
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _densities(left, layers)
        _overlaps(right, result)
    return figure


def _densities(axes: Axes, layers: Sequence[LayerFacts]) -> None:
    _heat_map(axes, [layer.density[:MOST_EXPERTS] for layer in layers], "open gates, in % of the layer's weights")
    axes.set_title("Density of layers")
    axes.set_xlabel("expert")
    axes.set_ylabel("layer")
    axes.set_yticks(range(len(layers)), [cut(layer.name) for layer in layers])


def _overlaps(axes: Axes, result: InspectBankResult) -> None:
    cells = [
        [None if row == column else share for column, share in enumerate(shares[:MOST_EXPERTS])]
        for row, shares in enumerate(result.overlap[:MOST_EXPERTS])
    ]
    bar = _heat_map(axes, cells, "open in both, in % of those open in either", away=1.17)
    diagonal = [_square(place, place) for place in range(len(cells))]
    axes.add_collection(PatchCollection(diagonal, color=INK, alpha=0.08, linewidths=0))
    axes.set_title("Overlap of experts")
    axes.set_xlabel("expert")
    axes.set_ylabel("expert")
    axes.yaxis.set_major_locator(MaxNLocator(16, integer=True))
    axes.set_aspect("equal", anchor="N")
    chance = [row[column] for place, row in enumerate(result.overlap_by_chance) for column in range(place)]
    mean = 100 * sum(chance) / len(chance)
    if mean <= bar.get_ylim()[1]:
        bar.axhline(mean, color="white", linewidth=2.4)
        bar.axhline(mean, color=INK, linewidth=1)
        bar.annotate("chance", (-0.2, mean), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=8)


def _heat_map(axes: Axes, cells: Cells, label: str, away: float = 1.03) -> Axes:
    """Cells in the colour of their shares, with numbers where there is room; gives the axes of the colour bar.

    The bar is so far from the left side, in widths of the map.
    """
    count = len(cells[0])
    places = [(x, y, share) for y, row in enumerate(cells) for x, share in enumerate(row) if share is not None]
    top = max(share for _, _, share in places) or 1.0
    shown = PatchCollection([_square(x, y) for x, y, _ in places], cmap=COLOUR_MAP, linewidths=0)
    shown.set_array([100 * share for _, _, share in places])
    shown.set_clim(0, 100 * top)
    axes.add_collection(shown)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(len(cells) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(16, integer=True))
    if count <= MOST_NUMBERED:
        for x, y, share in places:
            colour = "#000000" if share > 0.45 * top else "#ffffff"
            axes.text(x, y, number(share), ha="center", va="center", fontsize=7.5, color=colour)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    beside = axes.inset_axes((away, 0, 0.035, 1))  # as high as the map
    bar = axes.figure.colorbar(shown, cax=beside, label=label)
    bar.outline.set_visible(False)
    bar.ax.grid(False)
    bar.ax.tick_params(length=2)
    return bar.ax


def _square(x: int, y: int) -> Rectangle:
    return Rectangle((x - 0.5 + GAP / 2, y - 0.5 + GAP / 2), 1 - GAP, 1 - GAP)


def _changes(axes: Axes, layers: Sequence[LayerFacts]) -> None:
    for place, layer in enumerate(layers):
        axes.barh(place, root_mean_square(layer), height=0.75, color=COLOURS[0])
        told = f"{number(layer.density[0])} % changed"
        axes.annotate(told, (1.01, place), xycoords=("axes fraction", "data"), va="center", annotation_clip=False)
    axes.set_yticks(range(len(layers)), [cut(layer.name) for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_title("Change of layers")
    axes.set_xlabel("root mean square of the change")
    axes.set_ylabel("layer")
