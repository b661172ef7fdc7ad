"""The record of a run, run.json beside its output, and the facts that every command reports."""

import ast
import hashlib
import json
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli import __version__
from fewshot_cli.results import Result, Skipped
from fewshot_cli.storage.atomic import is_stream, write_atomically

if TYPE_CHECKING:
    from fewshot_cli.images.sources.class_folders import Folder
    from fewshot_cli.jobs.features import Embedded

Report = dict[str, Any]
"""What a command found, under the keys that `--json` prints."""

PACKAGE = Path(__file__).parent.parent

SHORT_HASH = 12
"""Hexadecimal digits of an image's hash that a delta file keeps of each image it was learned from."""


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    packages = ("torch", "timm", "numpy", "pillow", "safetensors")
    return {"fewshot-cli": __version__, "python": platform.python_version()} | {
        name: version(name) for name in packages
    }


@cache
def code_digest(package: Path = PACKAGE) -> str:
    """A digest of our own code that results depend on, without its comments and docstrings, which change none."""
    digest = hashlib.sha256()
    for room in ("engine", "methods", "images", "formats", "storage", "jobs"):
        for path in sorted((package / room).rglob("*.py")):
            tree = ast.parse(path.read_bytes())
            for node in ast.walk(tree):
                _without_docstring(node)
            digest.update(f"{path.relative_to(package).as_posix()} {ast.dump(tree)}\n".encode())
    return digest.hexdigest()


def _without_docstring(node: ast.AST) -> None:
    """Takes out the texts that stand alone: of a module, class or function, or below an attribute."""
    body = getattr(node, "body", None)
    if isinstance(body, list):
        node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]


def _is_text(part: ast.stmt) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def data_hash(labelled: Iterable[tuple[str, str]]) -> str:
    """The SHA-256, in hex, of the pairs of label and content hash, whatever their order and the names of the files."""
    return hashlib.sha256(json.dumps(sorted(labelled)).encode()).hexdigest()


def skipped(labelled: "Folder", embedded: "Embedded") -> tuple[Skipped, ...]:
    """The files that can't be used, each with the reason."""
    unreadable = [(labelled.items[i].path, problem.reason) for i, problem in sorted(embedded.problems.items())]
    outside = [(path, "lies outside of any class folder") for path in labelled.loose]
    return tuple(Skipped(str(path), reason) for path, reason in unreadable + outside)


def run_path(output: Path) -> Path:
    """Where the record of the run that made `output` lies."""
    return output.with_name(f"{output.name}.run.json")


def write_run(output: Path, result: Result | Report) -> None:
    """Leaves the result as `OUTPUT.run.json`; a pipe or a device has nothing beside it."""
    if is_stream(output):
        return
    report = result.report() if isinstance(result, Result) else result
    write_atomically(run_path(output), json.dumps(report, indent=2, ensure_ascii=False) + "\n")


@dataclass
class Stopwatch:
    """Seconds spent in each stage since the last."""

    seconds: dict[str, float] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Books the time since the last lap on this stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
        self.last = now

    def rounded(self) -> dict[str, float]:
        """The seconds of each stage and of all, to the millisecond."""
        return {
            stage: round(spent, 3) for stage, spent in (self.seconds | {"total": sum(self.seconds.values())}).items()
        }


def seconds_since(start: float) -> dict[str, float]:
    """The seconds since `start`, a reading of `time.perf_counter`, as results keep them."""
    return {"total": round(time.perf_counter() - start, 3)}
