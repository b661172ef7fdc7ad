"""What `fewshot plan` says of recipes beside what `fewshot adapt` then takes, each in a process of its own.

    python benchmarks/plan.py --data pacs/photo dtd10 --shots 5 --recipes cosine-ridge lda bitfit
    python benchmarks/plan.py --data pacs/sketch --shots 20 --image-size 128 --recipes norms lora saft

Prints a table: planned, measured, and their ratio, of the seconds that `adapt` reports, of the largest memory of its
process, and of its file. In both commands the clock is that of the processor, and there is one thread, so that other
work on the machine counts for little. Needs ../shared/data, and a system with os.wait4.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from methods import split
from shared_sets import SHARED

FIGURES = {"seconds": "seconds", "memory": "memory, MB", "bytes": "file, KB"}
BY_PROCESSOR = "import time; time.perf_counter = time.process_time; from fewshot_cli.cli.main import main; main()"
UNITS = {"seconds": 1.0, "memory": 1e6, "bytes": 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["pacs/photo", "dtd10"])
    parser.add_argument("--shots", type=int, default=5)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--recipes", nargs="+", default=["cosine-ridge", "lda", "bitfit"])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=1, help="of both, in turn; medians are compared")
    asked = parser.parse_args()
    print(f"| folder | recipe |{''.join(f' {title}: planned | measured | ratio |' for title in FIGURES.values())}")
    print(f"| --- | --- |{' ---: |' * 3 * len(FIGURES)}")
    for name in asked.data:
        with tempfile.TemporaryDirectory() as kept:
            support, _ = split(SHARED / "data" / name, Path(kept), asked.shots, 0)
            common = ["--image-size", str(asked.image_size), "--device", "cpu", "--offline", "--json", "--quiet"]
            common += [word for change in asked.changes for word in ("--set", change)]
            common += ["--weights", str(asked.weights)] if asked.weights else []
            for recipe in asked.recipes:
                pairs = [pair(support, recipe, common) for _ in range(asked.repeats)]
                print(line(f"{name}, {asked.shots} a class", recipe, pairs), flush=True)


def pair(support: Path, recipe: str, common: list[str]) -> tuple[dict[str, Any], dict[str, float]]:
    """What is planned of a recipe, and what comes."""
    planned, _ = result(["plan", str(support), "--recipe", recipe, *common])
    output = ["-o", str(support.parent / "x.fewshot"), "--no-cache"]
    found, memory = result(["adapt", str(support), "--recipe", recipe, *output, *common])
    return planned["candidates"][0], {"seconds": found["seconds"]["total"], "memory": memory, "bytes": found["bytes"]}


def result(words: list[str]) -> tuple[dict[str, Any], int]:
    """What a command of fewshot says, and the most bytes that its process held."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen([sys.executable, "-c", BY_PROCESSOR, *words], stdout=said, env=alone)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"fewshot {' '.join(words)} left with {process.returncode}")
        said.seek(0)
        return json.load(said), 1024 * used.ru_maxrss


def line(folder: str, recipe: str, pairs: list[tuple[dict[str, Any], dict[str, float]]]) -> str:
    cells = [folder, recipe]
    for key, unit in UNITS.items():
        planned, truth = (median(float(one[key]) for one in side) for side in zip(*pairs, strict=True))
        cells += [f"{planned / unit:.1f}", f"{truth / unit:.1f}", f"{planned / truth:.2f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
