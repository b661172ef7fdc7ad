"""What the documentation shows runs: the examples of docs/python.md in order, and the doctests of the interface."""

import doctest
import re
import shutil
from pathlib import Path

import pytest

import fewshot_cli
from fewshot_cli.api import editing, functions

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_the_examples_of_the_page_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "hawks")
    shutil.copytree(folder / "cat", "new")
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == PAGE.read_text(encoding="utf-8").count("```python") > 3
    names: dict[str, object] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"{PAGE.name}, example {number}", "exec"), names)
    assert Path("hawks.fewshot").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("module", [fewshot_cli, functions, editing], ids=lambda module: module.__name__)
def test_doctests_run(module):
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0
