"""How commands end that do not end well: exit codes, and messages that are true."""

import io
import os
import subprocess
import sys

import pytest
import torch

from fewshot_cli.errors import Terminated
from fewshot_cli.jobs.classify import adapt as adapting
from fewshot_cli.jobs.classify import demo as showing
from fewshot_cli.jobs.share import describe as inspecting
from fewshot_cli.reports.progress import ProgressLines
from fewshot_cli.storage import hub


def raising(error: BaseException):
    def broken(*arguments, **named):
        raise error

    return broken


@pytest.mark.parametrize(
    ("stop", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "Interrupted; nothing was written."),
        (Terminated(), 143, "Terminated; nothing was written."),
        (KeyboardInterrupt("go on with --resume."), 130, "Interrupted; go on with --resume."),
        (Terminated("go on with --resume."), 143, "Terminated; go on with --resume."),
    ],
)
def test_ctrl_c_and_the_end_of_a_job_are_told_apart(fewshot, file, monkeypatch, stop, code, says):
    monkeypatch.setattr(inspecting, "read_any_delta_file", raising(stop))
    result = fewshot("inspect", file)
    assert (result.exit_code, result.stdout, result.stderr.strip()) == (code, "", says)


def test_an_interrupt_between_a_file_and_its_record_says_that_the_file_is_there(
    fewshot, drawn, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(adapting, "write_run", raising(KeyboardInterrupt()))
    output = tmp_path / "x.fewshot"
    for _ in range(2):  # the second time it takes the place of the first
        result = fewshot("adapt", drawn, "-o", output, "--recipe", "ridge", *tiny)
        assert result.exit_code == 130
        assert result.stderr.strip() == f"Interrupted; by then {output} was written."
    assert fewshot("inspect", output).exit_code == 0


@pytest.mark.slow
def test_an_interrupted_demo_says_what_it_leaves(fewshot, tmp_path, monkeypatch):
    monkeypatch.setattr(showing, "adapt", raising(KeyboardInterrupt()))
    output = tmp_path / "demo"
    result = fewshot("demo", "-o", output)
    assert result.exit_code == 130 and any(output.iterdir())
    assert result.stderr.strip() == f"Interrupted; {output} holds only what was done until then."
    assert fewshot("demo").stderr.strip() == "Interrupted; nothing was written."


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), "The GPU has too little"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:66] DefaultCPUAllocator: can't allocate memory"), "This machine"),
        (MemoryError(), "This machine has too little memory."),
    ],
)
def test_too_little_memory_is_a_sentence(fewshot, file, monkeypatch, error, says):
    monkeypatch.setattr(inspecting, "read_any_delta_file", raising(error))
    result = fewshot("inspect", file)
    problem, hint = result.stderr.strip().split("\n")
    assert result.exit_code == 2 and problem.startswith(f"Error: {says}") and "--image-size" in hint


@pytest.mark.parametrize("error", [RuntimeError("a bug"), BrokenPipeError("not of our output")])
def test_a_bug_stays_a_bug(fewshot, file, monkeypatch, error):
    monkeypatch.setattr(inspecting, "read_any_delta_file", raising(error))
    result = fewshot("inspect", file)
    assert result.exit_code == 1 and result.exception is error


@pytest.mark.skipif(os.name == "nt", reason="no such pipes")
def test_a_reader_of_messages_that_has_gone_is_no_error(process):
    """Standard error is a pipe that nobody reads any more."""
    code = (
        "import os, sys\nreader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 2)\n"
        "sys.argv = ['fewshot', 'verify', 'nowhere']\nfrom fewshot_cli.cli.main import main\nmain()\n"
    )
    result = process("-c", code)
    assert result.stderr == "" and result.stdout == ""


@pytest.mark.skipif(os.name == "nt", reason="no such pipes")
@pytest.mark.parametrize("words", [["recipes", "list"], ["recipes"], ["--help"], ["adapt", "--help"]], ids=" ".join)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_is_no_error(words, unbuffered):
    """As in `fewshot recipes | head -1`, which closes the pipe early; with and without a buffer of Python's."""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "fewshot_cli", *words]
    ran = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_bug_of_ours_is_no_broken_connection(monkeypatch):
    """Only what the hub's client raises is told as trouble with the hub."""
    with pytest.raises(ZeroDivisionError), hub._told("ada/hawks", "main"):
        raise ZeroDivisionError
    with pytest.raises(AttributeError), hub._told("ada/hawks", "main") as api:
        api.no_such_thing()


def test_without_a_terminal_there_is_a_line_each_minute():
    now, stream = [1000.0], io.StringIO()
    lines = ProgressLines(stream, lambda: now[0])
    with lines.track("meta-tuning") as advance:
        for done in range(1, 601):
            now[0] += 1
            advance(done, 1200, f"loss {done}")
    said = stream.getvalue().splitlines()
    assert len(said) == 10
    assert said[0].split("  ")[1:] == ["meta-tuning", "60/1200", "about 19 min left", "loss 60"]
    assert said[-1].split("  ")[1:] == ["meta-tuning", "600/1200", "about 10 min left", "loss 600"]


def test_many_short_pieces_of_work_speak_each_minute_too():
    now, stream = [0.0], io.StringIO()
    lines = ProgressLines(stream, lambda: now[0])
    for piece in range(10):
        with lines.track(f"piece {piece}") as advance:
            now[0] += 25
            advance(1, 2)
    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.slow
def test_what_takes_less_than_a_minute_says_nothing(process, drawn, tiny, tmp_path):
    result = process("-m", "fewshot_cli", "adapt", drawn, "-o", tmp_path / "x.fewshot", "--recipe", "ridge", *tiny)
    assert result.returncode == 0 and result.stderr == ""
