"""Small heads of a GPU are fitted on the CPU, and lie on the GPU in the end; fake tensors stand for both."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_cli.engine.head.solving import SMALL, where_solved
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.ridge import Ridge

FACTORISED = ("linalg_cholesky_ex", "cholesky_solve", "_linalg_svd")


class Solved(TorchDispatchMode):
    """Notes on which devices systems are solved."""

    def __init__(self) -> None:
        super().__init__()
        self.devices: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in FACTORISED:
            self.devices.append(args[0].device.type)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("dim", "device"), [(32, "cpu"), (SMALL // 8, "cuda")])
@pytest.mark.parametrize("method", [Ridge(), LDA()])
def test_a_small_head_of_a_gpu_is_solved_on_the_cpu(method, dim, device):
    with FakeTensorMode(allow_non_fake_inputs=True), Solved() as solved:
        features = torch.empty(9, dim, device="cuda")
        labels = torch.zeros(9, dtype=torch.int64, device="cuda")
        head = method.head(features, labels, 3)
    assert solved.devices and set(solved.devices) == {device}
    assert head.weight.device.type == head.bias.device.type == "cuda"
    assert head.weight.dtype == torch.float32


def test_what_is_on_the_cpu_stays_as_it_is():
    features, labels = torch.ones(4, 2), torch.zeros(4, dtype=torch.int64)
    found = where_solved(features, labels)
    assert found[0] is features and found[1] is labels
