"""Safetensors files: the library's own order and names, the same bytes for the same content, in little memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from fewshot_cli.formats.tensors import safetensors_bytes, write_safetensors

ROOT = Path(__file__).resolve().parents[2]


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    some = {
        f"{name}.{number}": torch.randn(shape, generator=generator).to(dtype)
        for name, dtype in (("é b", torch.float16), ("a", torch.float32), ("c", torch.bfloat16), ("d", torch.float64))
        for number, shape in enumerate([(3, 5), (), (0, 4), (7,)])
    }
    some |= {"bytes": torch.arange(7, dtype=torch.uint8), "long": torch.arange(5), "bits": torch.tensor([True, False])}
    return some | {"across": torch.randn(4, 6, generator=generator).T, "eight": torch.ones(3).to(torch.float8_e4m3fn)}


def test_a_file_is_what_the_library_writes(tmp_path):
    metadata = {"one": "1"}  # of several, the library changes the order
    on_cpu = {name: values.contiguous() for name, values in tensors().items()}
    content = save(on_cpu, metadata)
    ours = safetensors_bytes(tensors(), metadata)
    start, ours_start = (8 + int.from_bytes(one[:8], "little") for one in (content, ours))
    assert ours[ours_start:] == content[start:]
    assert load(ours).keys() == load(content).keys()
    assert all(torch.equal(load(ours)[name].float(), values.float()) for name, values in load(content).items())
    assert write_safetensors(tmp_path / "x", tensors(), metadata) == len(ours)
    assert (tmp_path / "x").read_bytes() == ours


def test_metadata_keep_their_order():
    metadata = {str(i): "x" for i in range(50)}
    contents = {safetensors_bytes(tensors(), metadata) for _ in range(3)}
    assert len(contents) == 1
    places = [next(iter(contents)).index(f'"{i}":"x"'.encode()) for i in range(50)]
    assert places == sorted(places)


SCRIPT = """
import resource, sys
from pathlib import Path
import torch
from fewshot_cli.formats.checkpoint import Checkpoint, write_checkpoint

facts = Checkpoint(identity={}, circumstances={}, step=0, sampler="", epochs=(), recent=(), seconds=0)
write_checkpoint(Path(sys.argv[1]), facts, {"x": torch.ones(3)}, {})  # what is imported and made on first use
bank = {str(i): torch.ones(4 << 20) for i in range(16)}  # 256 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_checkpoint(Path(sys.argv[1]), facts, bank, {})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kilobytes there, bytes or nothing elsewhere")
def test_writing_a_checkpoint_takes_no_copy_of_it_in_memory(tmp_path):
    asked = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "x")], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert asked.returncode == 0, asked.stderr
    assert int(asked.stdout) < 64 << 10  # kilobytes; one tensor has 16 MB, all of them 256
    assert (tmp_path / "x").stat().st_size > 256 << 20
