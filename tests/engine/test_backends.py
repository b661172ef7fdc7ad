"""What processes exchange tensors over: NCCL where each has a GPU of its own, else gloo."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from fewshot_cli.engine import distributed as module
from fewshot_cli.engine.device import GLOO, backends, gpu_of
from fewshot_cli.engine.distributed import Processes

BOTH = "cpu:gloo,cuda:nccl"


@pytest.mark.parametrize(
    ("gpus", "over"),
    [
        (["a 0", "a 1"], BOTH),
        (["a 0", "b 0"], BOTH),
        (["a 0", "a 0"], GLOO),  # NCCL wants a GPU for each
        (["a 0", ""], GLOO),
        (["", ""], GLOO),
    ],
)
def test_nccl_takes_a_gpu_for_each_process(gpus, over, monkeypatch):
    assert backends(gpus) == over
    store = dist.HashStore()
    monkeypatch.setattr(module, "gpu_of", lambda wanted: gpus[int(wanted)])
    with ThreadPoolExecutor(2) as threads:
        agreed = threads.map(lambda rank: module._agreed(store, Processes(rank, 2), str(rank)), (0, 1))
    assert list(agreed) == [over, over]


def test_a_gpu_is_told_from_others_of_its_machine(monkeypatch):
    assert gpu_of("cpu") == gpu_of("no such device") == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: device)  # which has no uuid
    assert gpu_of("cuda:0") != gpu_of("cuda:1")
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert gpu_of("cuda:0") == ""
