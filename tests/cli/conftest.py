"""The command line as people use it: in this process where that is enough, as a process of its own where it isn't."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from fewshot_cli.cli.main import app
from fewshot_cli.images.drawing import write_folder

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def child(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process whose output is read here. However the test ends, it ends with all that it started."""
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=os.name != "nt", **options
    )
    try:
        yield running
    finally:
        if os.name == "nt":
            running.kill()
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        for stream in (running.stdout, running.stderr):
            stream.close()


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _environment(cache, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(cache))
    for name in ("NO_COLOR", "FORCE_COLOR", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def weights(tmp_path_factory, vit) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file({name: values.contiguous().clone() for name, values in vit.source.items()}, path)
    return path


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_folder(folder, ("cat", "house", "star"), 3, seed=0, size=64)
    return folder


@pytest.fixture
def fewshot() -> Callable[..., Any]:
    """Runs a command in this process: `exit_code`, `stdout`, `stderr` and `exception`."""

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def tiny(weights) -> list[object]:
    """The options that make `adapt` quick."""
    return ["--backbone", "test_vit", "--weights", weights, "--image-size", "64"]


@pytest.fixture(scope="session")
def file(tmp_path_factory, drawn, weights, cache) -> Path:
    """A delta file on the tiny model; not to be changed."""
    path = tmp_path_factory.mktemp("file") / "x.fewshot"
    options = ["--backbone", "test_vit", "--weights", str(weights), "--image-size", "64"]
    result = CliRunner(env={"FEWSHOT_CACHE": str(cache)}).invoke(app, ["adapt", str(drawn), "-o", str(path), *options])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def other(tmp_path_factory, weights, cache) -> Path:
    """A delta file of another user, on the same base; not to be changed."""
    folder = tmp_path_factory.mktemp("other")
    write_folder(folder / "in", ("flower", "star"), 3, seed=5, size=64)
    options = ["--backbone", "test_vit", "--weights", str(weights), "--image-size", "64"]
    path = folder / "y.fewshot"
    result = CliRunner(env={"FEWSHOT_CACHE": str(cache)}).invoke(
        app, ["adapt", str(folder / "in"), "-o", str(path), *options]
    )
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture
def started(cache) -> Callable[..., Any]:
    """As `process`, but the process is given while it runs, in a context that ends it and all that it started."""

    def run(*arguments: object, **environment: str) -> Any:
        command = [sys.executable, *(str(argument) for argument in arguments)]
        variables = os.environ | {"FEWSHOT_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        return child(command, env=variables | environment, text=True)

    return run


@pytest.fixture
def process(cache) -> Callable[..., Any]:
    """Runs Python as a process of its own, which knows this checkout from wherever it is run."""

    def run(*arguments: object, cwd: Path = ROOT, path: tuple[Path, ...] = (), **environment: str) -> Any:
        command = [sys.executable, *(str(argument) for argument in arguments)]
        variables = os.environ | {"FEWSHOT_CACHE": str(cache), "OMP_NUM_THREADS": "1"} | environment
        variables["PYTHONPATH"] = os.pathsep.join(map(str, (*path, ROOT)))
        with child(command, cwd=cwd, env=variables, text=True) as running:
            output, errors = running.communicate(timeout=300)
        return subprocess.CompletedProcess(command, running.returncode, output, errors)

    return run
