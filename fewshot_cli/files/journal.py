"""The results of episodes as they come in, so that an interrupted run goes on where it stopped."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fewshot_cli.errors import FewshotError

Results: TypeAlias = list[dict[str, list[float]]]
"""For each session of some consecutive episodes: the episodes' values by metric, in order."""

Known: TypeAlias = dict[str, dict[int, Results]]
"""By key of what was asked of whom, and number of the first episode: what was found."""


@dataclass(frozen=True)
class Journal:
    """Lines of JSON beside an output, one for each block of episodes; every process has its own file."""

    output: Path
    rank: int = 0

    @property
    def path(self) -> Path:
        return self.output.with_name(f"{self.output.name}.partial{f'-{self.rank}' if self.rank else ''}")

    def write(self, key: str, start: int, results: Results) -> None:
        """Adds one block. Raises FewshotError where the disk is full or read-only."""
        line = json.dumps({"key": key, "start": start, "results": results})
        try:
            with self.path.open("ab+") as file:
                cut_short = file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n"  # by a crash
                file.write(b"\n" * bool(cut_short) + line.encode() + b"\n")
        except OSError as error:
            raise FewshotError(
                f"{self.path} can't be written: {error.strerror or error}.", "Choose another output, or make room."
            ) from None

    def read(self) -> Known:
        """All blocks that this and other processes left; a last line cut short by a crash is passed over."""
        known: Known = {}
        for path in sorted(self.output.parent.glob(f"{_literal(self.output.name)}.partial*")):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    block = json.loads(line)
                    known.setdefault(block["key"], {})[block["start"]] = block["results"]
                except (ValueError, KeyError, TypeError):
                    continue
        return known

    def remove(self) -> None:
        """Deletes what all processes left, once the output holds it."""
        for path in self.output.parent.glob(f"{_literal(self.output.name)}.partial*"):
            path.unlink(missing_ok=True)


def read_run(path: Path) -> dict[str, Any]:
    """The record of an earlier `eval` of recipes. Raises FewshotError where `path` holds none."""
    hint = "`fewshot eval RECIPE --data DIR` writes one."
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FewshotError(f"{path} can't be read: {error.strerror}.", hint) from None
    except ValueError:
        run = None
    if not isinstance(run, Mapping) or not {"results", "keys", "rows", "protocol", "recipes"} <= set(run):
        raise FewshotError(f"{path} is no record of an evaluation over episodes.", hint)
    return dict(run)


def _literal(name: str) -> str:
    """The name for a glob, whatever characters are in it."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
