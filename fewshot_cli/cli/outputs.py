"""What a command is about to write must not be what it reads: one rule, for every option of every command."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from fewshot_cli.errors import FewshotError

OUTPUTS = ("output", "csv", "jsonl", "html", "markdown", "picture", "card", "tensorboard", "sort_into", "write_splits")
"""The parameters of commands that name what is written; all other paths are read."""

PATHS_AS_TEXT = ("recipe", "method", "what", "name", "classes")
"""The parameters that may name a file to read, though they need not."""

BESIDE = (".run.json", ".checkpoint", ".log.jsonl", ".partial")
"""How the names of what is written beside --output end."""

DATA_SUFFIXES = (".zip", ".csv", ".jsonl", ".h5", ".hdf5")


def check_outputs(command: Callable[..., None], given: Mapping[str, Any]) -> None:
    """Raises FewshotError where an output is also an input, or two outputs are one file, however they are spelled."""
    called = _names(command)
    outputs = [(called[name], Path(given[name])) for name in OUTPUTS if given.get(name) is not None]
    inputs = [path for name, value in given.items() for path in _read(name, value)]
    for (first, path), (second, other) in combinations(outputs, 2):
        if _same(path, other) and (path.is_file() or not path.exists()):  # all may go to one terminal
            raise FewshotError(f"{first} and {second} are both {path}.", "Give each its own file.")
    output = given.get("output")
    beside = [("what is written beside --output", Path(f"{output}{end}")) for end in BESIDE if output is not None]
    for name, path in [*outputs, *beside]:
        if any(_same(path, read) for read in inputs):
            raise FewshotError(f"{path} is read by this command, and can't be {name} too.", "Choose another file.")
        if given.get("json") and _is_standard_output(path):
            raise FewshotError(f"{name} and --json both go to standard output.", "Give one of them a file.")
    for name, path in outputs:
        _check_data(name, path, inputs, is_picture=name == called.get("picture"))


def _check_data(name: str, path: Path, inputs: list[Path], is_picture: bool) -> None:
    """Raises FewshotError where an output would take the place of somebody's images or data."""
    from fewshot_cli.images.sources.class_folders import IMAGE_SUFFIXES

    try:
        inside = [folder for folder in inputs if path.resolve().is_relative_to(folder.resolve())]
        holds = [file for file in inputs if path.is_dir() and file.resolve().is_relative_to(path.resolve())]
        is_there = path.is_file()
    except (OSError, RuntimeError):  # a name that is too long, links in a circle: said where it is written
        return
    suffix = path.suffix.lower()
    if is_there and ((suffix in IMAGE_SUFFIXES and not is_picture) or (inside and suffix in DATA_SUFFIXES)):
        raise FewshotError(f"{path} is there already and would be replaced as {name}.", "Choose another file.")
    if is_there and inside and suffix in IMAGE_SUFFIXES:
        raise FewshotError(
            f"{path} is an image in {inside[0]} and would be replaced as {name}.", "Choose another file."
        )
    if name == "--output" and holds:
        raise FewshotError(f"{path} holds {holds[0]}, which is read.", "Choose another folder with -o.")


def _read(name: str, value: Any) -> Iterator[Path]:
    """The files and folders that are there and that a parameter names."""
    if name in OUTPUTS or value is None:
        return
    for item in value if isinstance(value, list | tuple) else [value]:
        if isinstance(item, Path) or (isinstance(item, str) and item and name in PATHS_AS_TEXT):
            path = Path(item)
            try:
                is_there = path.exists()
            except (OSError, ValueError):  # no path at all
                continue
            if is_there:
                yield path


def _same(path: Path, other: Path) -> bool:
    """Whether two paths are one file: through links of either kind, and whatever the spelling."""
    try:
        if path.samefile(other):
            return True
    except OSError:  # one of them is not there
        pass
    try:
        return path.resolve() == other.resolve()
    except (OSError, RuntimeError):
        return False


def _is_standard_output(path: Path) -> bool:
    """Whether what is written at a path joins what is printed; what is thrown away joins nothing."""
    try:
        status, printed = path.stat(), os.fstat(1)
        return os.path.samestat(status, printed) and not path.samefile(os.devnull)
    except (OSError, ValueError):
        return False


def _names(command: Callable[..., None]) -> dict[str, str]:
    """What users call each parameter of a command: its option, or what its help calls the argument."""
    names = {}
    for name, parameter in inspect.signature(command).parameters.items():
        told = next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
        decls = (getattr(told, "default", None), *(getattr(told, "param_decls", None) or ()))  # the first is in default
        long = next((decl for decl in decls if isinstance(decl, str) and decl.startswith("--")), None)
        names[name] = long or getattr(told, "metavar", None) or name
    return names
