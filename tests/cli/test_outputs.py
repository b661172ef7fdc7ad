"""An output that is an input is refused, in every command, however its path is spelled."""

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fewshot_cli.cli.main import app
from fewshot_cli.cli.outputs import OUTPUTS, PATHS_AS_TEXT

READ = {"folder", "file", "files", "paths", "data", "validate", "weights", "bank", "check", "images", "listed", "watch"}
"""The parameters with the type of a path that are read."""


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command of the command line, by its words."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        words = f"{prefix} {name}".strip()
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield words, command


EVERY = dict(commands())


def annotation(words: str, param: Any) -> str:
    """The type of a parameter as the command's function states it."""
    return str(inspect.signature(EVERY[words].callback).parameters[param.name].annotation)


def is_path(words: str, param: Any) -> bool:
    return "pathlib" in annotation(words, param).partition("typer.models")[0]


def reads_path(words: str, param: Any) -> bool:
    return param.name not in OUTPUTS and (is_path(words, param) or param.name in PATHS_AS_TEXT)


PAIRS = [
    pytest.param(words, output, read, id=f"{words}: {output.name}, {read.name}")
    for words, command in EVERY.items()
    for output in command.params
    if is_path(words, output) and output.name in OUTPUTS
    for read in command.params
    if reads_path(words, read)
]


def value(words: str, param: Any, path: Path) -> str:
    choices = re.search(r"Literal\['(\w+)'", annotation(words, param))
    if choices:
        return choices[1]
    return str(path) if is_path(words, param) or param.name in PATHS_AS_TEXT else "x"


def typed(words: str, given: dict[str, Path], other: Path) -> list[str]:
    """The command with these paths, and with what it requires besides."""
    options, arguments = [], []
    for param in EVERY[words].params:
        if param.name in given or param.required:
            instead = other.with_name("new") if param.name in OUTPUTS else other
            text = value(words, param, given.get(param.name, instead))
            if param.param_type_name == "option":
                options += [max(param.opts, key=len), text]
            else:
                arguments.append(text)
    return [*words.split(), *arguments, *options]


def test_every_path_is_known_to_be_read_or_written():
    """A new option of a command has its place in OUTPUTS, or in READ above."""
    assert len(EVERY) > 15 and len(PAIRS) > 25
    for words, command in EVERY.items():
        for param in command.params:
            if is_path(words, param):
                assert (param.name in OUTPUTS) != (param.name in READ), f"{words}: {param.name}"


@pytest.mark.slow
@pytest.mark.parametrize(("words", "output", "read"), PAIRS)
def test_an_output_that_is_an_input_is_refused(words, output, read, fewshot, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    precious, other = folder / "precious", folder / "other"
    precious.write_text("precious")
    other.write_text("other")
    (folder / "link").symlink_to(precious)
    os.link(precious, folder / "second")
    for spelled in (precious, folder / ".." / "in" / "precious", folder / "link", folder / "second"):
        result = fewshot(*typed(words, {read.name: precious, output.name: spelled}, other))
        assert result.exit_code == 2, result.output
        assert "is read by this command" in result.stderr and str(spelled) in result.stderr
    assert precious.read_text() == "precious"


def test_what_is_written_beside_an_output_is_no_input_either(fewshot, tmp_path):
    record = tmp_path / "x.fewshot.run.json"
    record.write_text("{}")
    result = fewshot("compose", record, record, "-o", tmp_path / "x.fewshot")
    assert result.exit_code == 2 and "beside --output" in result.stderr


def test_two_outputs_are_two_files(fewshot, tmp_path):
    asked = ["eval", "ridge", "--data", "drawn"]
    for first, second in (("--report", "--markdown"), ("--output", "--report")):
        result = fewshot(*asked, first, tmp_path / "x", second, tmp_path / "y" / ".." / "x")
        assert result.exit_code == 2 and f"{first} and {second} are both" in result.stderr


def test_an_image_is_never_replaced(fewshot, drawn, file, tmp_path):
    picture = sorted((drawn / "cat").iterdir())[0]
    before = picture.read_bytes()
    for words in (["adapt", drawn, "-o", picture], ["predict", file, drawn, "--csv", picture]):
        result = fewshot(*words)
        assert result.exit_code == 2 and "is there already" in result.stderr
    result = fewshot("inspect", file, "--picture", picture)
    assert result.exit_code == 2  # a delta file is not drawn
    assert picture.read_bytes() == before


def test_a_folder_that_holds_an_input_is_not_replaced(fewshot, file, tmp_path):
    result = fewshot("export", file, "-o", file.parent, "--format", "peft")
    assert result.exit_code == 2 and "which is read" in result.stderr
    assert file.exists()


def test_outputs_that_are_no_files_may_be_the_same(fewshot, file, drawn, weights, tmp_path):
    result = fewshot("predict", file, drawn, "--weights", weights, "--csv", os.devnull)
    assert "is read by" not in result.stderr
