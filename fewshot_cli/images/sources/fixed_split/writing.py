"""Fixed splits as the field writes them, so that the code of others learns from the same images."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Entries: TypeAlias = Sequence[tuple[str, int, str]]
"""Of each image the path, the label and the name of its class."""


def coop_json(parts: Mapping[str, Entries]) -> str:
    """The text of a split as CoOp (Zhou et al., 2022) writes them; a part that is lacking is empty."""
    return json.dumps({part: [list(entry) for entry in parts.get(part, ())] for part in ("train", "val", "test")})


def json_lines(parts: Mapping[str, Entries]) -> str:
    """The same as a line of JSON with path, class and split for each image."""
    rows = [{"path": path, "class": name, "split": part} for part, rows in parts.items() for path, _, name in rows]
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
