"""Processes that really are several, joined over gloo: what they exchange, and what becomes of them when one fails."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
BODY = """
import os, signal, sys, time
from fewshot_cli.engine import distributed as module
from fewshot_cli.engine.distributed import joined
from fewshot_cli.errors import FewshotError
rank = int(os.environ["RANK"])
module.ARRIVAL, module.SILENCE = {arrival}, {silence}
try:
    {before}
    with joined() as processes:
        {inside}
except FewshotError as error:
    print(error.problem, flush=True)
    sys.exit(error.exit_code)
"""


@contextmanager
def two(before: str, inside: str, arrival: float = 200, silence: float = 200) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of one run that no torchrun looks after."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    shared |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BODY.format(before=before, inside=inside, arrival=arrival, silence=silence)]
    with ExitStack() as stack:
        started = []
        for rank in ("0", "1"):
            here = os.environ | shared | {"RANK": rank}
            process = subprocess.Popen(command, env=here, stdout=PIPE, stderr=PIPE, text=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
        yield started


@pytest.mark.slow
def test_each_hears_what_all_found():
    inside = "print(processes.gather([rank] * (1 + rank)), flush=True)"
    with two("pass", inside) as started:
        outputs = [process.communicate(timeout=240) for process in started]
    assert [(process.returncode, out) for process, (out, _) in zip(started, outputs, strict=True)] == [
        (0, "[[0], [1, 1]]\n")
    ] * 2, outputs


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_raises_ends_the_other(failing):
    inside = f"processes.gather(0); processes.gather(1 / (rank - {failing}))"
    with two("pass", inside) as started:
        outputs = [process.communicate(timeout=240) for process in started]
    assert "ZeroDivisionError" in outputs[failing][1]
    assert started[1 - failing].returncode == 2, outputs
    assert outputs[1 - failing][0] == "Another of the 2 processes of this run has ended before its work was done.\n"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such signals")
def test_one_that_is_killed_ends_the_other():
    inside = (
        "processes.gather(0)\n        if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n        processes.gather(1)"
    )
    with two("pass", inside) as started:
        outputs = [process.communicate(timeout=240) for process in started]
    assert started[1].returncode == -signal.SIGKILL
    assert started[0].returncode == 2 and "has ended" in outputs[0][0], outputs


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_never_comes_is_not_waited_for_in_vain(failing):
    with two(f"rank == {failing} and sys.exit(7)", "processes.gather(0)", arrival=8) as started:
        outputs = [process.communicate(timeout=240) for process in started]
    assert started[failing].returncode == 7
    assert started[1 - failing].returncode == 2 and "not all have come within 8 seconds" in outputs[1 - failing][0]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such signals")
def test_one_that_is_silent_is_taken_for_dead():
    """It holds its connections, as a machine seems to that has lost its power."""
    inside = (
        "processes.gather(0)\n        if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)\n        processes.gather(1)"
    )
    with two("pass", inside, silence=15) as started:
        _, errors = started[0].communicate(timeout=240)
    assert started[0].returncode == 1 and "Process 1 of 2 has said nothing for 15 seconds" in errors
    assert started[1].returncode == -signal.SIGKILL


@pytest.mark.slow
def test_one_that_is_slow_is_waited_for():
    """However long its work is: what counts is that it lives."""
    inside = "rank == 1 and time.sleep(20)\n        print(processes.gather(rank), flush=True)"
    with two("pass", inside, silence=8) as started:
        outputs = [process.communicate(timeout=240) for process in started]
    assert [out for out, _ in outputs] == ["[0, 1]\n"] * 2, outputs


@pytest.mark.slow
def test_one_whose_work_is_done_may_leave():
    """The first still writes, long after the other has gone."""
    inside = "processes.gather(rank); rank == 0 and (time.sleep(20), print('written', flush=True))"
    with two("pass", inside, silence=8) as started:
        outputs = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0] and outputs[0][0] == "written\n", outputs
