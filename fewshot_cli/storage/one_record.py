"""The record of one delta file on one folder, which may only take the place of another such record."""

import json
from pathlib import Path

from fewshot_cli.errors import FewshotError


def check_record_of_file(path: Path) -> None:
    """Raises FewshotError where something else is at `path` than nothing, an empty file, or such a record."""
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("command") != "eval" or "confusion" not in found:
        raise FewshotError(
            f"{path} is no record of a delta file on a folder, so that it is not replaced.",
            "Choose another file with -o, or remove this one first.",
        )
