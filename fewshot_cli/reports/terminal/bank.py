"""What a bank holds, for people: facts, and maps made of characters, which need no colour."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.layout import as_yaml, facts, one_line, percent, size

Report = dict[str, Any]

SHADES = "░▒▓█"
MOST_NUMBERED = 8
"""Experts whose columns have numbers in a terminal of 80 characters."""
MOST_EXPERTS = 20
"""Experts whose columns fit it at all."""
MOST_LAYERS = 60


def bank_shown(report: Report) -> RenderableType:
    """The facts of a bank, its recipe, how dense its layers are, and how far its experts overlap."""
    name = "router" if report["kind"] in ("dense", "experts") else "settings"
    settings = {key: report[key] for key in (name, "recipe") if report[key]}
    parts: list[RenderableType] = [facts(*bank_facts(report))]
    parts += [Text(), as_yaml(settings)] if settings else []
    if report["layers"]:
        parts += [Text(), _densities(report) if report["experts"] else _changes(report)]
    if report["kind"] not in ("dense", "experts"):
        parts += [Text(), _tensors(report)]
    if report["experts"] > 1:
        parts += [Text(), _overlaps(report)]
    return Group(*parts)


def bank_facts(report: Report) -> list[tuple[str, str | Text]]:
    """Names and what they are."""
    height, width = report["image_size"]
    rows: list[tuple[str, str | Text]] = [
        ("file", f"{report['file']}, {size(report['bytes'])} ({size(report['bytes_as_float32'])} as float32 tensors)"),
        ("backbone", f"{report['backbone']}, {height} x {width} px, licence {report['licence']}"),
        ("base", f"sha256 {report['fingerprint']}"),
        ("content", f"sha256 {report['sha256']}"),
        ("kind", kind(report)),
        ("changes", changes(report)),
    ]
    if report["expert_between"]:
        rows.append(("open gates", f"{spread(report['expert_between'])} are below 1"))
    if report["experts"] > 1:
        rows.append(("overlap", overlap(report)))
    rows += [("learned from", learned(report))]
    rows += [("data", f"{name}, sha256 {digest[:16]}...") for name, digest in report["data"].items()]
    if report["validation"]:
        told = ", ".join(f"{name} {percent(accuracy)}" for name, accuracy in report["validation"].items())
        rows.append(("validation", told))
    if report["parent"]:
        rows.append(("from bank", f"sha256 {report['parent']}"))
    rows.append(("made with", ", ".join(f"{name} {number}" for name, number in report["versions"].items())))
    return rows


def summary(report: Report) -> str:
    """The bank in a line."""
    if report["kind"] == "dense":
        return f"a dense change of {percent(report['density'])} of {report['size']:,} weights"
    if not report["experts"]:
        return kind(report)
    experts = counted(report["experts"], "expert")
    if report["experts"] == 1:
        return f"{experts}, open at {percent(report['density'])} of {report['size']:,} weights"
    each = f"open at {spread(report['expert_density'])} of the weights each"
    return f"{experts}, {each}, together at {percent(report['density'])}"


def kind(report: Report) -> str:
    """What the bank is, in words."""
    if report["kind"] == "dense":
        return f"dense: one change of {report['size']:,} weights"
    if not report["experts"]:
        moved = f"one change of {report['size']:,} weights" if report["size"] else "no change of the weights"
        return f"{report['kind']}: {counted(len(report['tensors']), 'tensor')} and {moved}"
    return f"{counted(report['experts'], 'expert')} over {report['size']:,} weights"


def changes(report: Report) -> str:
    """How many weights are changed, by each expert and by any."""
    if report["experts"] <= 1:
        return f"{percent(report['density'])} of the weights"
    closed = math.prod(1 - density for density in report["expert_density"])
    return (
        f"{spread(report['expert_density'])} of the weights by each expert, "
        f"{percent(report['density'])} by any ({percent(1 - closed)} by chance)"
    )


def overlap(report: Report) -> str:
    """How far experts open the same gates, against what chance would give."""
    found, chance = (_pairs(report[key]) for key in ("overlap", "overlap_by_chance"))
    mean, expected = sum(found) / len(found), sum(chance) / len(chance)
    return f"two experts share {percent(mean)} of what either opens, on average ({percent(expected)} by chance)"


def learned(report: Report) -> str:
    """How much practice the bank has had."""
    where = f" of {counted(len(report['data']), 'data set')}" if report["data"] else ""
    return f"{report['episodes']:,} episodes{where}, seed {report['seed']}"


def spread(shares: Sequence[float]) -> str:
    """From the least to the greatest, in percent."""
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")


def number(share: float) -> str:
    """A share in percent in three letters."""
    return "0" if share == 0 else f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _pairs(matrix: list[list[float]]) -> list[float]:
    return [value for row, values in enumerate(matrix) for value in values[:row]]


def _densities(report: Report) -> RenderableType:
    layers = report["layers"]
    rows = [(layer["name"], f"{layer['size']:,}", layer["density"]) for layer in layers[:MOST_LAYERS]]
    remark = f"{counted(len(layers) - MOST_LAYERS, 'more layer')} not shown" if len(layers) > MOST_LAYERS else ""
    return _heat_map("open gates, in % of a layer's weights; columns: experts", ("layer", "weights"), rows, remark)


def _overlaps(report: Report) -> RenderableType:
    rows = [
        (f"expert {place}", "", [share if place != other else None for other, share in enumerate(row)])
        for place, row in enumerate(report["overlap"][:MOST_EXPERTS])
    ]
    return _heat_map("overlap: gates both experts open, in % of those either opens", ("", ""), rows, "")


def _heat_map(
    title: str,
    headings: tuple[str, str],
    rows: Sequence[tuple[str, str, Sequence[float | None]]],
    remark: str,
) -> RenderableType:
    """Shares as shades, the greatest as full blocks, and as numbers where there is room."""
    count = len(rows[0][2])
    shown = min(count, MOST_EXPERTS)
    top = max((share for _, _, shares in rows for share in shares[:shown] if share is not None), default=0.0)
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column(headings[0], no_wrap=True, overflow="ellipsis")
    table.add_column(headings[1], justify="right", no_wrap=True, style="dim")
    for place in range(shown):
        table.add_column(str(place), justify="right", no_wrap=True)
    for name, words, shares in rows:
        table.add_row(one_line(name), words, *(_cell(share, top, count <= MOST_NUMBERED) for share in shares[:shown]))
    remarks = [remark] if remark else []
    remarks += [f"experts {shown} to {count - 1} not shown"] if shown < count else []
    return Group(Text(title, style="dim"), table, *(Text(line, style="dim") for line in (*_key(top), *remarks)))


def _cell(share: float | None, top: float, numbered: bool) -> Text:
    if share is None:
        return Text("-", style="dim")
    shade = SHADES[math.ceil(len(SHADES) * share / top) - 1] if share > 0 else " "
    return Text.assemble((2 * shade, "cyan"), f"{number(share):>4}" if numbered else "")


def _key(top: float) -> Iterator[str]:
    """What the shades stand for."""
    if top > 0:
        ends = [number(top * (place + 1) / len(SHADES)) for place in range(len(SHADES))]
        yield "up to: " + ", ".join(f"{2 * shade} {end} %" for shade, end in zip(SHADES, ends, strict=True))


def _tensors(report: Report) -> RenderableType:
    """What a bank holds that is of a kind of its own: each tensor, and its shape."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("tensor", "shape"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for name, shape in report["tensors"].items():
        table.add_row(one_line(name), " x ".join(map(str, shape)) or "one number")
    return table


def _changes(report: Report) -> RenderableType:
    """The layers of a dense bank: how much of each is changed, and the root mean square of its change as a bar."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    for heading in ("weights", "changed", "norm"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("root mean square", no_wrap=True)
    layers = report["layers"]
    top = max(root_mean_square(layer) for layer in layers) or 1.0
    for layer in layers[:MOST_LAYERS]:
        table.add_row(
            one_line(layer["name"]),
            f"{layer['size']:,}",
            percent(layer["density"][0]),
            f"{layer['norm']:.3g}",
            f"{root_mean_square(layer):<9.2e}" + "█" * round(20 * root_mean_square(layer) / top),
        )
    if len(layers) > MOST_LAYERS:
        table.add_row(f"and {len(layers) - MOST_LAYERS} more", "", "", "", "")
    return table


def root_mean_square(layer: Report) -> float:
    """The size of a layer's change for each weight, which can be compared between layers."""
    return float(layer["norm"]) / math.sqrt(layer["size"])
