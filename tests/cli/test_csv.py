"""`fewshot predict --csv`: rows as they come, to files and pipes, and what an interrupted run leaves."""

import contextlib
import csv
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fewshot_cli.images.drawing import write_folder

ROOT = Path(__file__).resolve().parents[2]
posix = pytest.mark.skipif(os.name == "nt", reason="pipes and signals of POSIX")


@pytest.mark.slow
def test_rows_go_to_the_file_and_a_sentence_to_the_terminal(fewshot, file, drawn, weights, tmp_path):
    asked = ["predict", file, drawn, tmp_path / "none.jpg", "--weights", weights]
    result = fewshot(*asked, "--csv", tmp_path / "x.csv")
    assert result.exit_code == 0, result.output
    count = len(list(drawn.glob("*/*")))
    assert result.stdout == f"{count} images labelled, 1 could not be read; the rows are in {tmp_path / 'x.csv'}\n"
    assert len((tmp_path / "x.csv").read_text().splitlines()) == count + 2
    assert not (tmp_path / "x.csv.partial").exists()


@pytest.mark.slow
@posix
def test_rows_go_to_standard_output_and_nothing_else_does(file, drawn, weights):
    words = ["predict", str(file), str(drawn), "--weights", str(weights), "--csv", "/dev/stdout"]
    ended = subprocess.run(
        [sys.executable, "-m", "fewshot_cli", *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    rows = list(csv.DictReader(io.StringIO(ended.stdout, newline="")))
    assert len(rows) == len(list(drawn.glob("*/*"))) and all(row["label"] for row in rows)


@pytest.mark.slow
@posix
def test_an_interrupted_run_leaves_the_rows_so_far_and_says_where(file, weights, tmp_path):
    write_folder(tmp_path / "in", ["cat"], 100, seed=0, size=32)
    (tmp_path / "in" / "zz.jpg").write_text("never read")
    output = tmp_path / "x.csv"
    output.write_text("before")
    script = (  # the last image comes when the others are written, and takes its time
        "import time\nfrom fewshot_cli.images import image_bytes\nfrom fewshot_cli.cli.main import main\n"
        "original = image_bytes.file_bytes\n"
        "image_bytes.file_bytes = lambda path, most: time.sleep(9) if path.name == 'zz.jpg' else original(path, most)\n"
        "main()\n"
    )
    words = ["predict", str(file), str(tmp_path / "in"), "--weights", str(weights), "--csv", str(output)]
    process = subprocess.Popen([sys.executable, "-c", script, *words], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        partial = tmp_path / "x.csv.partial"
        for _ in range(600):
            if partial.exists() and len(partial.read_text().splitlines()) > 64:
                break
            assert process.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=90)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert f"the rows so far are in {partial}" in said
    assert output.read_text() == "before" and len(partial.read_text().splitlines()) == 65
