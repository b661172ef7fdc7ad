"""Which parameters a method may move: a regular expression over timm's names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fewshot_cli.errors import FewshotError

if TYPE_CHECKING:
    from fewshot_cli.engine.model.backbone import Backbone
    from fewshot_cli.engine.params import Params


_NUMBERED = re.compile(r"^(blocks|stages|layers)\.(\d+)\.")


def timm_name(name: str) -> str:
    """timm's name of a parameter of an image tower; of any other its own."""
    return name.removeprefix("visual.")


def check_pattern(pattern: str | None) -> str | None:
    """The pattern, if it is a regular expression; raises ValueError with where it is not."""
    try:
        re.compile((pattern or "").replace("{last}", "0"))
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return pattern


def targeted(backbone: Backbone, pattern: str, min_dims: int = 0, with_text: bool = False) -> Params:
    """The backbone's parameters of at least `min_dims` dimensions whose name the pattern is found in.

    Of a backbone with a text tower those of the image tower, by timm's names, and of the other only `with_text`.

    `{last}` stands for the number of the last block or stage. Raises FewshotError when nothing matches.
    """
    from fewshot_cli.engine.model.clip.towers import image_params

    named = {timm_name(name): name for name in (backbone.params if with_text else image_params(backbone))}
    numbers = [int(found[2]) for found in map(_NUMBERED.match, named) if found]
    wanted = re.compile(pattern.replace("{last}", str(max(numbers, default=0))))
    matching = [name for spelled, name in named.items() if wanted.search(spelled)]
    chosen = {name: backbone.params[name] for name in matching if backbone.params[name].ndim >= min_dims}
    if not chosen:
        examples = list(named)[len(named) // 2 :][:3]
        raise FewshotError(
            f"No parameter of {backbone.name} matches the targets '{pattern}'.",
            f"Its names look like {', '.join(examples)}; change them with --set method.targets=PATTERN.",
        )
    return chosen
