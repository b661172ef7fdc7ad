"""What a run leaves behind: the facts that every command reports, and run.json beside an output."""

import ast
import hashlib
import json
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewshot_cli import __version__
from fewshot_cli.images.sources.class_folders import Folder
from fewshot_cli.storage.atomic import is_stream, write_atomically

if TYPE_CHECKING:
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


def skipped(labelled: Folder, embedded: "Embedded") -> list[dict[str, str]]:
    """The files that can't be used, each with the reason."""
    unreadable = [(labelled.items[i].path, problem.reason) for i, problem in sorted(embedded.problems.items())]
    outside = [(path, "lies outside of any class folder") for path in labelled.loose]
    return [{"path": str(path), "reason": reason} for path, reason in unreadable + outside]


def run_path(output: Path) -> Path:
    """Where the record of the run that made `output` lies."""
    return output.with_name(f"{output.name}.run.json")


def write_run(output: Path, report: Report) -> None:
    """Leaves the report as `OUTPUT.run.json`; a pipe or a device has nothing beside it."""
    if is_stream(output):
        return
    write_atomically(run_path(output), json.dumps(report, indent=2, ensure_ascii=False) + "\n")
