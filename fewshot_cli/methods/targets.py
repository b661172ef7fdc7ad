"""Which parameters a method may move: a regular expression over timm's names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params


_NUMBERED = re.compile(r"^(blocks|stages|layers)\.(\d+)\.")


def check_pattern(pattern: str | None) -> str | None:
    """The pattern, if it is a regular expression; raises ValueError with where it is not."""
    try:
        re.compile((pattern or "").replace("{last}", "0"))
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


def targeted(backbone: Backbone, pattern: str, min_dims: int = 0) -> Params:
    """The backbone's parameters of at least `min_dims` dimensions whose name the pattern is found in.

    `{last}` stands for the number of the last block or stage. Raises FewshotError when nothing matches.
    """
    numbers = [int(found[2]) for found in map(_NUMBERED.match, backbone.params) if found]
    wanted = re.compile(pattern.replace("{last}", str(max(numbers, default=0))))
    chosen = {n: v for n, v in backbone.params.items() if v.ndim >= min_dims and wanted.search(n)}
    if not chosen:
        examples = list(backbone.params)[len(backbone.params) // 2 :][:3]
        raise FewshotError(
            f"No parameter of {backbone.name} matches the targets '{pattern}'.",
            f"Its names look like {', '.join(examples)}; change them with --set method.targets=PATTERN.",
        )
    return chosen
