"""The results of episodes as they come in, so that an interrupted run goes on where it stopped."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.atomic import is_stream

Results: TypeAlias = list[dict[str, list[float]]]
"""For each session of some consecutive episodes: the episodes' values by metric, in order."""

Known: TypeAlias = dict[str, dict[int, Results]]
"""By key of what was asked of whom, and number of the first episode: what was found."""


def longest(known: Known, key: str, start: int, results: Results) -> None:
    """Puts a block among the known ones, unless as many or more of its episodes are known already."""
    blocks = known.setdefault(key, {})
    if start not in blocks or episodes_in(results) > episodes_in(blocks[start]):
        blocks[start] = results


def episodes_in(results: Results) -> int:
    """How many episodes the results of a block are of."""
    return len(results[0]["accuracy"])


@dataclass(frozen=True)
class Journal:
    """Lines of JSON beside an output, one for each block of episodes; every process has its own file.

    Beside a pipe or a device nothing is kept, and nothing found.
    """

    output: Path
    rank: int = 0

    @property
    def path(self) -> Path:
        return self.output.with_name(f"{self.output.name}.partial{f'-{self.rank}' if self.rank else ''}")

    def write(self, key: str, start: int, results: Results) -> None:
        """Adds one block. Raises FewshotError where the disk is full or read-only."""
        if is_stream(self.output):
            return
        line = json.dumps({"key": key, "start": start, "results": results})
        try:
            with self.path.open("ab+") as file:
                cut_short = file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n"  # by a crash
                file.write(b"\n" * bool(cut_short) + line.encode() + b"\n")
        except OSError as error:
            raise _failed(self.path, "written", error, "Choose another output, or make room.") from None

    def read(self) -> Known:
        """All blocks that this and other processes left; lines that hold none, as a crash leaves them, are passed over.

        Raises FewshotError where a file of the journal can't be read.
        """
        known: Known = {}
        for path in self._files():
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise _failed(path, "read", error, "Mend that, or move it away to do its episodes again.") from None
            for line in text.splitlines():
                block = _parsed(line)
                if _is_block(block):
                    longest(known, block["key"], block["start"], block["results"])
        return known

    def remove(self) -> None:
        """Deletes what all processes left, once the output holds it."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """The files of this output's journal that are there, and no other file, however its name begins."""
        if is_stream(self.output):
            return []
        ours = re.compile(re.escape(f"{self.output.name}.partial") + r"(-[1-9]\d*)?")
        try:
            return sorted(path for path in self.output.parent.iterdir() if ours.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _failed(self.output.parent, "read", error, "Choose another output.") from None


# --- the record of a whole run -------------------------------------------------------------------------------------

HINT = "`fewshot eval RECIPE --data DIR` writes one."


def read_run(path: Path) -> dict[str, Any]:
    """The record of an earlier `eval` of recipes. Raises FewshotError where `path` holds none, or a damaged one."""
    try:
        run = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _failed(path, "read", error, HINT) from None
    except ValueError:
        run = None
    if not isinstance(run, Mapping) or not {"results", "keys", "rows", "protocol", "recipes"} <= set(run):
        raise FewshotError(f"{path} is no record of an evaluation over episodes.", HINT)
    damage = next(_damages(run), None)
    if damage:
        raise FewshotError(f"{path} is damaged: {damage}.", "Restore it, or run `fewshot eval` again for a new one.")
    return dict(run)


def check_record(path: Path) -> None:
    """Raises FewshotError where a record can't be written to `path` without losing what is there.

    A record of an earlier run may be there, which is gone on with; or nothing, or an empty file.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        read_run(path)
    except FewshotError as error:
        raise FewshotError(
            error.problem, f"{path} is not replaced: choose another file with -o, or remove this one first."
        ) from None


def blocks_of(run: Mapping[str, Any]) -> Known:
    """The blocks of episodes in the record of a run, also those it keeps beside what it tells; some may be short."""
    known: Known = {}
    for name, rows in run["results"].items():
        keys = run["keys"][name]
        for key in dict.fromkeys(keys.values()):
            sessions = [rows[row] for row, of_row in keys.items() if of_row == key]
            size = run["blocks"][key]
            for start in range(0, len(sessions[0]["accuracy"]), size):
                part = [{metric: v[start : start + size] for metric, v in session.items()} for session in sessions]
                longest(known, key, start, part)
    for key, kept in run.get("kept", {}).items():
        for start, results in kept["blocks"].items():
            longest(known, key, int(start), results)
    return known


def is_results(found: Any) -> bool:
    """Whether `found` are Results: as many numbers of every metric, the accuracy among them, in every session."""
    if not isinstance(found, list) or not found:
        return False
    if not all(isinstance(session, dict) and session.get("accuracy") for session in found):
        return False
    columns = [column for session in found for column in session.values()]
    return all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns) and all(
        isinstance(value, int | float) for column in columns for value in column
    )


def _damages(run: Mapping[str, Any]) -> Iterator[str]:
    """What is missing or of the wrong kind in the parts that a run goes on from."""
    for part in ("results", "keys", "blocks", "recipes", "protocol"):
        if not isinstance(run.get(part), dict):
            yield f"it has no '{part}'"
            return
    for name, rows in run["results"].items():
        keys = run["keys"].get(name)
        if not isinstance(rows, dict) or not isinstance(keys, dict) or set(keys) != set(rows):
            yield f"the rows of {name} don't match its keys"
        elif not all(is_results([figures]) for figures in rows.values()):
            yield f"the figures of {name} are incomplete"
        elif not all(isinstance(key, str) and _is_size(run["blocks"].get(key)) for key in keys.values()):
            yield f"it lacks the size of the blocks of {name}"
        elif any(len({len(rows[row]["accuracy"]) for row in keys if keys[row] == key}) > 1 for key in keys.values()):
            yield f"the sessions of {name} are of different length"
    kept = run.get("kept", {})
    if not isinstance(kept, dict) or not all(_is_kept(item) for item in kept.values()):
        yield "what it keeps of earlier runs is incomplete"


def _is_block(line: Any) -> bool:
    return (
        isinstance(line, dict)
        and isinstance(line.get("key"), str)
        and _is_start(line.get("start"))
        and is_results(line.get("results"))
    )


def _is_kept(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("blocks"), dict)
        and all(start.isdecimal() and is_results(results) for start, results in item["blocks"].items())
    )


def _is_size(size: Any) -> bool:
    return _is_start(size) and size > 0


def _is_start(start: Any) -> bool:
    return isinstance(start, int) and not isinstance(start, bool) and start >= 0


def _parsed(text: str) -> Any:
    """The JSON in the text; None where it holds none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _failed(path: Path, done: str, error: OSError, hint: str) -> FewshotError:
    return FewshotError(f"{path} can't be {done}: {error.strerror or error}.", hint)
