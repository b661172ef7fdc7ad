"""What is written to a pipe or a device leaves nothing beside it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")


@pytest.fixture
def pipe(tmp_path):
    """A named pipe that somebody reads, and what came through it."""
    os.mkfifo(tmp_path / "pipe")
    reading = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    yield tmp_path / "pipe", lambda: os.read(reading, 1 << 16)
    os.close(reading)


def test_an_evaluation_into_a_pipe_keeps_no_journal(pipe, fewshot, drawn, tiny):
    path, received = pipe
    words = ["eval", "protonet", "--data", drawn, "--way", 2, "--shots", 1, "--queries", 1, "--episodes", 2]
    result = fewshot(*words, *tiny, "-o", path)
    assert result.exit_code == 0, result.output
    assert json.loads(received())["command"] == "eval"
    assert [file.name for file in path.parent.iterdir()] == ["pipe"]


def test_a_bank_is_no_stream(pipe, fewshot, drawn):
    path, _ = pipe
    result = fewshot("meta-tune", "smat", "--data", drawn, "-o", path)
    assert result.exit_code == 2 and "is a pipe or a device" in result.stderr
    assert [file.name for file in path.parent.iterdir()] == ["pipe"]


@pytest.mark.parametrize("option", ["--csv", "--jsonl"])
def test_rows_and_json_are_not_mixed_on_standard_output(file, drawn, option):
    words = ["predict", str(file), str(drawn), option, "/dev/stdout", "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "fewshot_cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2 and not ended.stdout
    assert f"{option} and --json both go to standard output" in ended.stderr
