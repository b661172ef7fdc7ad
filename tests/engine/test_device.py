"""Which device a name means."""

import platform
import subprocess
import sys

import pytest
import torch

from fewshot_cli.engine.device import choose_device, has_bfloat16, home_of, is_out_of_memory, sent
from fewshot_cli.errors import FewshotError


def test_the_cpu_is_always_there_and_auto_always_finds_something():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", "mps:0", "", "CPU"])
def test_a_name_that_means_nothing_is_an_error_that_says_so(name):
    with pytest.raises(FewshotError, match=f"'{name}'") as caught:
        choose_device(name)
    assert "auto" in caught.value.hint


def test_a_gpu_that_is_not_there_is_an_error():
    with pytest.raises(FewshotError, match="not here"):
        choose_device(f"cuda:{torch.cuda.device_count() + 7}")


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_processes_of_torchrun_take_a_gpu_each(wanted, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    for rank in range(4):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        chosen.append(choose_device(wanted).index)
    assert chosen == [0, 1, 0, 1]
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.delenv("LOCAL_RANK")
    assert choose_device(wanted) == torch.device("cuda", 0)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_kept_when_asked():
    script = """
import sys, torch
from pathlib import Path
from fewshot_cli.engine.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
before = pages()
del_me = torch.ones(2**24)
del del_me
print((pages() - before) * 4096 / 2**20)
"""
    kept, returned = (
        float(subprocess.run([sys.executable, "-c", script, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "return")
    )
    assert kept > 60 > 8 > returned


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True)])
def test_bfloat16_is_for_gpus_that_have_it_in_hardware(capability, has, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bfloat16(torch.device("cuda")) == has
    assert not has_bfloat16(torch.device("cpu"))


def test_what_is_sent_to_a_gpu_is_pinned_and_not_waited_for(monkeypatch):
    sent_as = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda values: sent_as.append("pinned") or values)
    monkeypatch.setattr(torch.Tensor, "to", lambda values, *where, **how: sent_as.append(how) or values)
    sent(torch.ones(2), torch.device("cuda"))
    assert sent_as == ["pinned", {"non_blocking": True}]
    sent(torch.ones(2), torch.device("cpu"))
    assert sent_as[2:] == [{}]


def test_apples_gpu_is_found_where_no_other_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("mps") == torch.device("mps")
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(FewshotError, match="'mps' is not here"):
        choose_device("mps")


def test_only_frozen_passes_are_apples():
    assert home_of(torch.device("mps")) == torch.device("cpu")
    for name in ("cpu", "cuda:1"):
        assert home_of(torch.device(name)) == torch.device(name)


def test_too_little_memory_is_known_whoever_says_so():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"))
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
