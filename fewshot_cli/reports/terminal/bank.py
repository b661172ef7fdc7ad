"""What a bank holds, for people: facts, and maps made of characters, which need no colour."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fewshot_cli.reports.as_yaml import as_yaml
from fewshot_cli.reports.layout import facts, one_line, percent, size
from fewshot_cli.results import InspectBankResult, LayerFacts

SHADES = "░▒▓█"
MOST_NUMBERED = 8
"""Experts whose columns have numbers in a terminal of 80 characters."""
MOST_EXPERTS = 20
"""Experts whose columns fit it at all."""
MOST_LAYERS = 60


def bank_shown(result: InspectBankResult) -> RenderableType:
    """The facts of a bank, its recipe, how dense its layers are, and how far its experts overlap."""
    name = "router" if result.kind in ("dense", "experts") else "settings"
    found = {name: result.router if name == "router" else result.settings, "recipe": result.recipe}
    settings = {key: words for key, words in found.items() if words}
    parts: list[RenderableType] = [facts(*bank_facts(result))]
    parts += [Text(), Text(as_yaml(settings))] if settings else []
    if result.layers:
        parts += [Text(), _densities(result) if result.experts else _changes(result)]
    if result.tensors and result.kind != "experts":
        parts += [Text(), _tensors(result)]
    if result.experts > 1:
        parts += [Text(), _overlaps(result)]
    return Group(*parts)


def bank_facts(result: InspectBankResult) -> list[tuple[str, str | Text]]:
    """Names and what they are."""
    height, width = result.image_size
    rows: list[tuple[str, str | Text]] = [
        ("file", f"{result.file}, {size(result.bytes)} ({size(result.bytes_as_float32)} as float32 tensors)"),
        ("backbone", f"{result.backbone}, {height} x {width} px, licence {result.licence}"),
        ("base", f"sha256 {result.fingerprint}"),
        ("content", f"sha256 {result.sha256}"),
        ("kind", kind(result)),
        ("changes", changes(result)),
    ]
    if result.expert_between:
        rows.append(("open gates", f"{spread(result.expert_between)} are below 1"))
    if result.experts > 1:
        rows.append(("overlap", overlap(result)))
    rows += [("learned from", learned(result))]
    rows += [("data", f"{name}, sha256 {digest[:16]}...") for name, digest in result.data.items()]
    if result.validation:
        told = ", ".join(f"{name} {percent(accuracy)}" for name, accuracy in result.validation.items())
        rows.append(("validation", told))
    if result.parent:
        rows.append(("from bank", f"sha256 {result.parent}"))
    rows.append(("made with", ", ".join(f"{name} {number}" for name, number in result.versions.items())))
    return rows


def summary(result: InspectBankResult) -> str:
    """The bank in a line."""
    if result.kind == "dense":
        return f"a dense change of {percent(result.density)} of {result.size:,} weights"
    if not result.experts:
        return kind(result)
    experts = counted(result.experts, "expert")
    if result.experts == 1:
        return f"{experts}, open at {percent(result.density)} of {result.size:,} weights"
    each = f"open at {spread(result.expert_density)} of the weights each"
    return f"{experts}, {each}, together at {percent(result.density)}"


def kind(result: InspectBankResult) -> str:
    """What the bank is, in words."""
    if result.kind == "dense":
        return f"dense: one change of {result.size:,} weights"
    if not result.experts:
        moved = f"one change of {result.size:,} weights" if result.size else "no change of the weights"
        return f"{result.kind}: {counted(len(result.tensors), 'tensor')} and {moved}"
    return f"{counted(result.experts, 'expert')} over {result.size:,} weights"


def changes(result: InspectBankResult) -> str:
    """How many weights are changed, by each expert and by any."""
    if result.experts <= 1:
        return f"{percent(result.density)} of the weights"
    closed = math.prod(1 - density for density in result.expert_density)
    return (
        f"{spread(result.expert_density)} of the weights by each expert, "
        f"{percent(result.density)} by any ({percent(1 - closed)} by chance)"
    )


def overlap(result: InspectBankResult) -> str:
    """How far experts open the same gates, against what chance would give."""
    found, chance = (_pairs(matrix) for matrix in (result.overlap, result.overlap_by_chance))
    mean, expected = sum(found) / len(found), sum(chance) / len(chance)
    return f"two experts share {percent(mean)} of what either opens, on average ({percent(expected)} by chance)"


def learned(result: InspectBankResult) -> str:
    """How much practice the bank has had."""
    where = f" of {counted(len(result.data), 'data set')}" if result.data else ""
    return f"{result.episodes:,} episodes{where}, seed {result.seed}"


def spread(shares: Sequence[float]) -> str:
    """From the least to the greatest, in percent."""
    low, high = percent(min(shares)), percent(max(shares))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def counted(count: int, what: str) -> str:
    """The count and the word for what was counted, in the plural where it is not one."""
    return f"{count} {what}" + ("s" if count != 1 else "")


def number(share: float) -> str:
    """A share in percent in three letters."""
    return "0" if share == 0 else f"{100 * share:.1f}" if share < 0.0995 else f"{100 * share:.0f}"


def _pairs(matrix: Sequence[Sequence[float]]) -> list[float]:
    return [value for row, values in enumerate(matrix) for value in values[:row]]


def _densities(result: InspectBankResult) -> RenderableType:
    layers = result.layers
    rows = [(layer.name, f"{layer.size:,}", layer.density) for layer in layers[:MOST_LAYERS]]
    remark = f"{counted(len(layers) - MOST_LAYERS, 'more layer')} not shown" if len(layers) > MOST_LAYERS else ""
    return _heat_map("open gates, in % of a layer's weights; columns: experts", ("layer", "weights"), rows, remark)


def _overlaps(result: InspectBankResult) -> RenderableType:
    rows = [
        (f"expert {place}", "", [share if place != other else None for other, share in enumerate(row)])
        for place, row in enumerate(result.overlap[:MOST_EXPERTS])
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


def _tensors(result: InspectBankResult) -> RenderableType:
    """What a bank holds that is of a kind of its own: each tensor, and its shape."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("tensor", "shape"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for name, shape in result.tensors.items():
        table.add_row(one_line(name), " x ".join(map(str, shape)) or "one number")
    return table


def _changes(result: InspectBankResult) -> RenderableType:
    """The layers of a dense bank: how much of each is changed, and the root mean square of its change as a bar."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer", no_wrap=True, overflow="ellipsis")
    for heading in ("weights", "changed", "norm"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("root mean square", no_wrap=True)
    layers = result.layers
    top = max(root_mean_square(layer) for layer in layers) or 1.0
    for layer in layers[:MOST_LAYERS]:
        table.add_row(
            one_line(layer.name),
            f"{layer.size:,}",
            percent(layer.density[0]),
            f"{layer.norm:.3g}",
            f"{root_mean_square(layer):<9.2e}" + "█" * round(20 * root_mean_square(layer) / top),
        )
    if len(layers) > MOST_LAYERS:
        table.add_row(f"and {len(layers) - MOST_LAYERS} more", "", "", "", "")
    return table


def root_mean_square(layer: LayerFacts) -> float:
    """The size of a layer's change for each weight, which can be compared between layers."""
    return layer.norm / math.sqrt(layer.size)
