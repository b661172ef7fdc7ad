"""The scalars of a run of meta-tuning: a line of JSON for each task and each validation, and TensorBoard when asked."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FewshotError
from fewshot_cli.storage.atomic import write_atomically


def log_path(output: Path) -> Path:
    """Where the scalars of the run that makes `output` lie."""
    return output.with_name(f"{output.name}.log.jsonl")


class Log:
    """Scalars as they come in; `step` is how many are done when a run goes on, and what came later is dropped."""

    def __init__(self, path: Path, step: int, tensorboard: Path | None) -> None:
        self.path = path
        kept = [line for line in _lines(path) if line["step"] < step] if step else []
        write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._board = _board(tensorboard, step) if tensorboard else None

    def write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Adds the lines. Raises FewshotError where the disk is full."""
        lines = list(lines)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise FewshotError(f"{self.path} can't be written: {error.strerror or error}.", "Make room.") from None
        if self._board:
            for line in lines:
                for name, value in _scalars(line):
                    self._board.add_scalar(name, value, line.get("episode", line["step"]))
            self._board.flush()


def _scalars(line: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    for name, value in line.items():
        if name in ("step", "episode"):
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif isinstance(value, list):
            yield from ((f"{name}/{i}", float(each)) for i, each in enumerate(value))
        elif isinstance(value, dict):
            yield from ((f"{name}/{key}", float(each)) for key, each in value.items())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines that are there; the last may have been cut short by a crash. Raises FewshotError for a damaged one."""
    if not path.is_file():
        return
    try:
        *lines, rest = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"can't be read: {error}") from None
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise _damaged(path, f"is damaged in line {number}")
        yield line
    with suppress(ValueError):
        line = json.loads(rest)
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


def _damaged(path: Path, how: str) -> FewshotError:
    return FewshotError(f"{path} {how}.", "Mend it, or move it away: then the log begins anew where the run goes on.")


def check_tensorboard() -> None:
    """Raises FewshotError where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise FewshotError("TensorBoard is not installed.", "Install it with `pip install 'fewshot-cli[tensorboard]'`.")


def _board(folder: Path, step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step or None)
