"""What only a process of its own can show."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fewshot_cli.images.drawing import write_folder

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = """
import socket

def forbidden(*_, **__):
    raise BaseException("a socket was opened")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.gethostbyname = forbidden
"""


@pytest.fixture
def no_network(tmp_path) -> Path:
    """A folder that, on Python's path, makes every attempt to reach the network fatal."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    return tmp_path / "site"


def test_the_guard_against_the_network_works(process, no_network):
    result = process("-c", "import socket; socket.create_connection(('localhost', 9))", path=(no_network,))
    assert result.returncode != 0 and "a socket was opened" in result.stderr


@pytest.mark.slow
def test_offline_opens_no_socket(process, no_network, drawn, tmp_path):
    """The default backbone, with an empty cache: everything it needs came with the install."""
    script = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fewshot_cli.cli.main import app\n"
        "folder, file = sys.argv[1:]\n"
        "for arguments in (['adapt', folder, '-o', file, '--image-size', '64'], ['predict', file, folder],\n"
        "                  ['eval', file, folder]):\n"
        "    result = CliRunner().invoke(app, [*arguments, '--offline'], catch_exceptions=False)\n"
        "    assert result.exit_code == 0, result.output\n"
        "missing = ['adapt', folder, '-o', file, '--backbone', 'vit_small_patch16_224', '--offline']\n"
        "result = CliRunner().invoke(app, missing, catch_exceptions=False)\n"
        "assert result.exit_code == 2 and '--weights' in result.stderr, result.output\n"
    )
    here = {"FEWSHOT_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}
    result = process("-c", script, drawn, tmp_path / "x.fewshot", path=(no_network,), **here)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_any_names_and_any_folder_to_work_in(process, weights, tmp_path):
    """A class named like an option, spaces, accents, and a script written from right to left; relative paths."""
    names = {"cat": "--x", "house": "Löwe é", "star": "قط بري", "fish": "a b  c"}
    write_folder(tmp_path / "-my photos", names, 2, seed=0, size=64)
    for name, label in names.items():
        (tmp_path / "-my photos" / name).rename(tmp_path / "-my photos" / label)
    run = ["-m", "fewshot_cli"]
    base = ["--weights", os.path.relpath(weights, tmp_path)]
    options = ["-o", "mon fichier é.fewshot", "--backbone", "test_vit", *base, "--image-size", "64", "--json"]
    adapted = process(*run, "adapt", *options, "--", "-my photos", cwd=tmp_path)
    assert adapted.returncode == 0, adapted.stderr
    assert json.loads(adapted.stdout)["classes"] == sorted(names.values())
    picture = next(iter(sorted((tmp_path / "-my photos" / "--x").iterdir()))).relative_to(tmp_path)
    predict = ["predict", *base, "--json", "--", "mon fichier é.fewshot", picture, "-my photos"]
    predicted = process(*run, *predict, cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert predicted.returncode == 0, predicted.stderr
    rows = json.loads(predicted.stdout)["predictions"]
    assert rows[0]["path"] == str(picture) and len(rows) == 8
    assert {row["label"] for row in rows} <= set(names.values())


def test_a_bug_prints_its_traceback_and_exits_with_one(process, no_network, file):
    broken = "import sys\nsys.modules['fewshot_cli.jobs.share.describe'] = object()\n"
    (no_network / "sitecustomize.py").write_text(broken)
    result = process("-m", "fewshot_cli", "inspect", file, path=(no_network,))
    assert result.returncode == 1 and "Traceback" in result.stderr and result.stdout == ""


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(cache):
    """Of a long output, which it breaks off, and of a short one, which waits in a buffer until the end."""
    environment = os.environ | {"FEWSHOT_CACHE": str(cache)}
    for ours, theirs, lines in (("backbones", "head -n 1", 1), ("recipes", "true", 0)):
        command = f"{sys.executable} -m fewshot_cli {ours} | {theirs}"
        found = subprocess.run(
            command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
        assert found.stdout.count("\n") == lines and found.stderr == ""


TELLING = """
import fewshot_cli.engine.train.train as fit
original = fit._share_of_lr
def telling(step, optim):
    if step == 3:
        print("training", flush=True)
    return original(step, optim)
fit._share_of_lr = telling
from fewshot_cli.cli.main import main
main()
"""
"""Says on standard output when it is in the middle of training."""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no such signals")
@pytest.mark.parametrize("before", [None, b"an older file"])
@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGINT, 130, "Interrupted; nothing was written."),
        (signal.SIGTERM, 143, "Terminated; nothing was written."),
    ],
)
def test_a_signal_in_training_leaves_what_was_there(started, drawn, tiny, tmp_path, before, number, code, says):
    output = tmp_path / "out" / "x.fewshot"
    output.parent.mkdir()
    if before:
        output.write_bytes(before)
    words = ["adapt", drawn, "-o", output, "--recipe", "lora", "--set", "method.tuning.optim.steps=1000000", *tiny]
    with started("-c", TELLING, *words) as running:
        assert running.stdout.readline() == "training\n", running.communicate(timeout=60)
        running.send_signal(number)
        _, errors = running.communicate(timeout=300)
    assert (running.returncode, errors.strip()) == (code, says)
    assert [path.read_bytes() for path in output.parent.iterdir()] == ([before] if before else [])


GRANDCHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no list of processes")
def test_no_child_outlives_its_test(started):
    """Nor what it has started itself, which a test that only ends its child would leave behind."""
    with pytest.raises(ZeroDivisionError), started("-c", GRANDCHILD) as running:
        number = int(running.stdout.readline())
        raise ZeroDivisionError
    assert running.returncode is not None
    for _ in range(600):
        state = Path(f"/proc/{number}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.1)
    raise AssertionError("it goes on")
