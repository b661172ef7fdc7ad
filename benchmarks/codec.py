"""How many bytes the positions of a random mask take, and a whole bank, and how long writing and reading them takes.

    python benchmarks/codec.py [--rounds 3]

Prints JSON, one object a line. A mask: bits for each position, and as a multiple of the bound log2 C(size, count);
for comparison, multiples of the same bound for int32 positions, for a packed bitmap, and for gaps in bytes deflated by
zlib's level 6. A bank: a ViT-S with 8 experts of independent random gates at 10 % density, its size, and seconds.
Times are process times with one thread: of masks the least of the rounds, of banks a single one.
"""

import argparse
import json
import math
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.formats.bank import BankHeader, BankProvenance, read_bank, write_bank
from fewshot_cli.formats.coding.position_codec import code_of, positions_in
from fewshot_cli.formats.delta.file import BaseFacts

VIT_S = 21_665_664
DENSITIES = (0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.9)
EXPERTS = 8
VALUES: tuple[Literal["float16"], Literal["float32"]] = ("float16", "float32")
DENSITY = 0.1

T = TypeVar("T")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    for density in DENSITIES:
        print(json.dumps(mask_figures(density, rounds)), flush=True)
    rng = torch.Generator().manual_seed(0)
    delta = torch.randn(VIT_S, generator=rng) * 1e-3
    gates = (torch.rand(EXPERTS, VIT_S, generator=rng) < DENSITY).float()
    for values in VALUES:
        print(json.dumps({"gates": "0 or 1"} | bank_figures(delta, gates, values)), flush=True)
    for row in gates:  # one open gate in twenty is in between
        row.mul_(torch.where(torch.rand(VIT_S, generator=rng) < 0.05, torch.rand(VIT_S, generator=rng), 1.0))
    figures = bank_figures(delta, gates, "float16")
    print(json.dumps({"gates": "5 % of the open ones in between"} | figures), flush=True)


def mask_figures(density: float, rounds: int) -> dict[str, float]:
    """What the positions of a random mask of that density take."""
    positions = np.flatnonzero(np.random.default_rng(0).random(VIT_S) < density)
    coding, code = timed(lambda: code_of(positions, VIT_S), rounds)
    decoding, found = timed(lambda: positions_in(code, VIT_S), rounds)
    assert np.array_equal(found, positions)
    bound = least_bytes(len(positions), VIT_S)
    return {
        "density": density,
        "bits_each": round(8 * len(code) / len(positions), 3),
        "times_the_bound": round(len(code) / bound, 4),
        "int32": round(4 * len(positions) / bound, 2),
        "bitmap": round(VIT_S / 8 / bound, 2),
        "gaps_zlib_6": round(len(zlib.compress(gap_bytes(positions), 6)) / bound, 3),
        "coding_ms": round(1e3 * coding),
        "decoding_ms": round(1e3 * decoding),
    }


def bank_figures(delta: Tensor, gates: Tensor, values: Literal["float32", "float16"]) -> dict[str, object]:
    """What a bank of them takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.fewshot"
        writing, size = timed(lambda: write_bank(path, header(), delta, gates, {}, values), 1)
        reading, bank = timed(lambda: read_bank(path), 1)
        assert bank.gates is not None and torch.equal(bank.gates, gates)
    return {
        "delta": values,
        "megabytes": round(size / 1e6, 2),
        "dense_megabytes": round(4 * VIT_S * (EXPERTS + 1) / 1e6),
        "writing_seconds": round(writing, 2),
        "reading_seconds": round(reading, 2),
    }


def header() -> BankHeader:
    """The header of a bank for a ViT-S."""
    base = BaseFacts(
        backbone="vit_small_patch16_224",
        fingerprint="0" * 64,
        size=VIT_S,
        licence="apache-2.0",
        preprocessing=Preprocessing((224, 224), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    )
    provenance = BankProvenance(seed=0, episodes=0, data={}, validation={}, versions={})
    return BankHeader(
        base=base,
        kind="experts",
        shapes={"all": (VIT_S,)},
        experts=EXPERTS,
        recipe={},
        settings={},
        provenance=provenance,
    )


def gap_bytes(positions: np.ndarray) -> bytes:
    """The skipped places in bytes, 255 as an escape."""
    escapes, rest = np.divmod(np.diff(positions, prepend=-1) - 1, 255)
    content = np.full(int(escapes.sum()) + len(rest), 255, dtype=np.uint8)
    content[np.cumsum(escapes + 1) - 1] = rest
    return content.tobytes()


def least_bytes(count: int, size: int) -> float:
    """The bytes that no code of all sets of `count` of `size` places can beat on average."""
    return float(gammaln(size + 1) - gammaln(count + 1) - gammaln(size - count + 1)) / math.log(2) / 8


def timed(work: Callable[[], T], rounds: int) -> tuple[float, T]:
    """The least process time of the rounds in seconds, and what came out."""
    seconds = math.inf
    for _ in range(rounds):
        start = time.process_time()
        result = work()
        seconds = min(seconds, time.process_time() - start)
    return seconds, result


if __name__ == "__main__":
    main()
