"""What is remembered on this machine, in a terminal."""

from typing import Any

from fewshot_cli.reports.rows import Rows

ABOUT = {
    "features": "what backbones saw in images",
    "pictures": "images, decoded and resized",
    "weights": "converted weights of backbones",
    "other": "names of backbones, and what other versions left",
}


def remembered(report: dict[str, Any]) -> Rows:
    """A line for each kind: its size, and how many there are."""
    lines = []
    for kind, held in report["kinds"].items():
        count = f", {held['values']:,}" if "values" in held else ""
        lines.append((kind, f"{_size(held['bytes'])}{count}: {ABOUT[kind]}"))
    return [("folder", report["folder"]), *lines]


def cleared(report: dict[str, Any]) -> Rows:
    """A line for each kind: the bytes that the disk has back."""
    return [("folder", report["folder"]), *((kind, f"{_size(freed)} freed") for kind, freed in report["freed"].items())]


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
