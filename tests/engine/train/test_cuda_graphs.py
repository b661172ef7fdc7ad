"""What is recorded when, where its inputs lie, and what is kept of it."""

from collections.abc import Callable

import pytest
import torch

from fewshot_cli.engine.device import recorder
from fewshot_cli.engine.train.cuda_graphs import WARM_UPS, Captured

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU, and there is none")


class FakeRecorder:
    """Records as a GPU does, into one result that every recording writes to; replays by doing the work."""

    def __init__(self) -> None:
        self.recorded = 0
        self.result = torch.empty(2)

    def run(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        return work()

    def record(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.recorded += 1
        return lambda: self.result.copy_(work())


class Sums:
    """A step that adds the sum of its input, times a constant, to a total."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.total, self.calls = torch.zeros(2, device=device), 0

    def __call__(self, inputs: dict[str, torch.Tensor], times: int) -> torch.Tensor:
        self.calls += 1
        self.total += times * inputs["x"].sum()
        return self.total.clone()


def captured(step: Sums, fake: FakeRecorder | None, keep: int = 8) -> Captured[torch.Tensor]:
    return Captured(step, torch.clone, fake, CPU, keep)


@pytest.mark.parametrize("fake", [None, FakeRecorder()], ids=["called", "recorded"])
def test_every_call_does_the_step_once(fake):
    sums = Sums()
    step = captured(sums, fake)
    rng = torch.Generator().manual_seed(0)
    expected, seen = [], []
    for size in (3, 5, 3, 3, 4, 5, 3, 5, 3, 4, 5):  # larger ones come after smaller ones are known
        x = torch.randn(size, 2, generator=rng)
        expected.append((expected[-1] if expected else 0) + (size * x).sum().item())
        seen.append(step({"x": x}, times=size))
    # Looked at only now: a later replay overwrites no earlier result.
    assert [values[0].item() for values in seen] == pytest.approx(expected, rel=1e-5)
    assert sums.calls == len(seen)


def test_each_shape_and_constant_is_recorded_once_and_not_at_first():
    fake = FakeRecorder()
    step = captured(Sums(), fake)
    for calls, recorded in ((WARM_UPS, 0), (3, 1)):
        for _ in range(calls):
            step({"x": torch.ones(3)}, times=1)
        assert fake.recorded == recorded
    for _ in range(WARM_UPS + 2):
        step({"x": torch.ones(3)}, times=2)
    assert fake.recorded == 2


def test_the_least_recently_used_is_dropped():
    fake = FakeRecorder()
    step = captured(Sums(), fake, keep=2)

    def call(size: int, times: int = 1) -> int:
        for _ in range(times):
            step({"x": torch.ones(size)}, times=1)
        return fake.recorded

    for size in (1, 2):
        call(size, WARM_UPS + 1)
    call(1)
    assert call(3, WARM_UPS + 1) == 3  # 2 goes
    assert call(1) == 3
    assert call(2) == 4  # at once, it has been warmed up


def test_nothing_records_on_a_cpu():
    assert recorder(CPU) is None


@no_gpu
def test_a_gpu_replays_what_python_did():
    device = torch.device("cuda")
    sums = Sums(device)
    step = Captured(sums, torch.clone, recorder(device), device, keep=2)
    expected, seen = 0.0, []
    for i in range(30):
        size = 1000 * (1 + i % 3)
        expected += i * size
        seen.append((step({"x": torch.full((size,), float(i))}, times=1), expected))
    assert [values[0].item() for values, _ in seen] == [total for _, total in seen]
    assert sums.calls < 30
