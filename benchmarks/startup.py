"""How fast things start, as ratios of medians in one run: commands and mistakes that need no tensor against
`python -c pass`, and building a backbone from local weights against timm's create-and-load.

    python benchmarks/startup.py

Prints one JSON line for each. Goals: what needs no tensor at most 10 times `python -c pass`, and without torch; build
at least 5, with equal outputs.

The first lines say what the interpreter can't do without: `import typer` and `import pydantic` alone take 5 times
`python -c pass` each, NumPy 7. So what needs neither recipe nor picture keeps within 10. A recipe's settings are
checked by pydantic: typer and one of its models alone take 13.5 to 15, `recipes check` 20, and 23 for `smat`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.engine.model.timm_models import build_backbone

ROUNDS = 15


def main() -> None:
    for module in FLOOR:
        print(json.dumps(import_against_nothing(module)), flush=True)
    for words in QUICK:
        print(json.dumps(start_against_nothing(words)), flush=True)
    for name in ("vit_small_patch16_224", "vit_base_patch16_224"):
        print(json.dumps(build_against_timm(name)))


FLOOR = ("typer", "pydantic", "numpy", "fewshot_cli.recipes")
"""What commands import: every one the first, those with a recipe all."""

QUICK = (
    "adapt --help",
    "--version",
    "recipes",
    "recipes show ridge",
    "recipes check bitfit",
    "recipes check smat --set method.experts=0",
    "backbones resnet",
    "cache",
    "adpat",
    "doctor nowhere",
    "adapt nowhere -o x",
    "adapt . -o x --recipe loar",
    "adapt . -o x --set method.tuning.scale=x",
    "eval bitfit --data nowhere",
    "eval nothing.fewshot .",
    "meta-tune smat --data nowhere -o x",
    "predict nothing.fewshot .",
    "inspect nothing.fewshot",
    "verify nothing.fewshot",
)
"""Commands that need no tensor, and mistakes that can be seen without one."""


NOTHING = [sys.executable, "-c", "pass"]


def import_against_nothing(module: str) -> dict[str, object]:
    importing, bare = alternating(lambda: run([sys.executable, "-c", f"import {module}"]), lambda: run(NOTHING), ROUNDS)
    return {
        "what": f"import {module} / python -c pass",
        "ratio": round(importing / bare, 2),
        "milliseconds": [round(1000 * importing), round(1000 * bare)],
    }


def start_against_nothing(words: str) -> dict[str, object]:
    asked = [sys.executable, "-m", "fewshot_cli", *words.split()]
    run(asked)  # what it remembers, as `backbones` does, it remembers now
    fewshot, bare = alternating(lambda: run(asked), lambda: run(NOTHING), ROUNDS)
    listing = subprocess.run(
        [*asked[:1], "-X", "importtime", *asked[1:]], capture_output=True, text=True, check=False
    ).stderr
    return {
        "what": f"fewshot {words} / python -c pass",
        "ratio": round(fewshot / bare, 2),
        "milliseconds": [round(1000 * fewshot), round(1000 * bare)],
        "torch_imported": any(line.rsplit("|", 1)[-1].strip() == "torch" for line in listing.splitlines()),
    }


def build_against_timm(name: str) -> dict[str, object]:
    """Both from the same safetensors file of random weights, in the page cache, to a model without a classifier."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        save_file(timm.create_model(name).state_dict(), file)

        def by_timm() -> torch.nn.Module:
            overlay = {"file": str(file), "custom_load": False}
            model: torch.nn.Module = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
            )
            return model.eval()

        def by_us() -> torch.nn.Module:
            return build_backbone(name, load_file(file)).module

        with torch.no_grad():
            images = torch.randn(2, 3, 224, 224)
            equal = torch.equal(by_timm()(images), by_us()(images))
        theirs, ours = alternating(by_timm, by_us, 7)
    return {
        "what": f"{name}: timm create and load / build_backbone",
        "ratio": round(theirs / ours, 2),
        "milliseconds": [round(1000 * theirs), round(1000 * ours)],
        "outputs_equal": equal,
    }


def run(command: list[str]) -> None:
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def alternating(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of each, measured in turn so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for spent, body in zip(times, (one, other), strict=True):
            start = time.perf_counter()
            body()
            spent.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


if __name__ == "__main__":
    main()
