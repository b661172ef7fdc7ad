"""Names and what they are in two columns, without rich, which takes four times as long to import as all else here."""

import textwrap
from collections.abc import Sequence

Rows = Sequence[tuple[str, str]]

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
LEAST = 20
"""Characters that the second column has at least."""


def in_columns(rows: Rows, width: int | None, styled: bool) -> str:
    """The lines of the rows, no longer than `width` characters where one is given; names are dim where `styled`."""
    longest = max((len(name) for name, _ in rows), default=0)
    lines = []
    for name, value in rows:
        first, *more = _folded(value, width and max(width - longest - 2, LEAST))
        shown = f"{DIM}{name}{PLAIN}" if styled and name else name
        lines.append(f"{shown}{' ' * (longest - len(name) + 2)}{first}".rstrip(" "))
        lines += [" " * (longest + 2) + line for line in more]
    return "\n".join(lines)


def _folded(text: str, width: int | None) -> list[str]:
    return (textwrap.wrap(text, width, break_on_hyphens=False) if width else [text]) or [""]
