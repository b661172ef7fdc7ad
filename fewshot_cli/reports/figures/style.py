"""How all pictures look: colours, letters, and SVG that stands in a page and takes its colour of ink."""

import io
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

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


def cut(name: str, longest: int = LONGEST) -> str:
    """The name, cut to so many letters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings for our figures, while it lasts."""
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever the user has set up
        mpl.rcParams.update(STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the reader's fonts draw the text
        yield


def plot(name: str, title: str, caption: str, told: str, figure: Figure) -> Plot:
    """The figure as it stands in a page, as SVG."""
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
