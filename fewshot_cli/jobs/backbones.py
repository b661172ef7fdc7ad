"""The backbones there are."""

import json
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import TYPE_CHECKING

from fewshot_cli import __version__
from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.atomic import write_atomically
from fewshot_cli.storage.feature_cache import cache_folder

if TYPE_CHECKING:
    from fewshot_cli.jobs.run_record import Report


def backbones(pattern: str) -> "Report":
    """timm's pre-trained models whose names match the pattern: they contain it; * and ? match as in file names."""
    from fewshot_cli.recipe_files import DEFAULT_BACKBONE

    return {
        "command": "backbones",
        "version": __version__,
        "default": DEFAULT_BACKBONE,
        "backbones": [name for name in _all_names() if fnmatchcase(name, f"*{pattern}*")],
    }


def _all_names() -> list[str]:
    """All names, remembered for each version of timm, which takes six seconds to import."""
    path = cache_folder() / "backbones" / f"timm-{version('timm')}.json"
    with suppress(OSError, ValueError):
        names = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names
    from fewshot_cli.engine.model.timm_names import list_backbones

    names = list_backbones()
    with suppress(FewshotError):  # a cache that can't be written is only slower
        write_atomically(path, json.dumps(names))
    return names
