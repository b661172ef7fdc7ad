"""SMAT's step on a GPU, as far as a CPU can show it: padding changes nothing, nothing waits, gradients add up."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from torch.autograd import grad
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_cli.engine.meta.fast_path import FastPath
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.smat.fast_path import fast_path
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import IN_CHUNKS, GatePasses
from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, MULTIPLIERS, SMATLoss, smat_loss, start_bank, trained
from fewshot_cli.engine.meta.smat.router import logistic_noise
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.meta.smat.shape_buckets import Bucket, bucket_of, padded
from fewshot_cli.engine.meta.smat.step import SMATStep
from fewshot_cli.engine.model.chunks import ChunkLimit
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.engine.params import Params

T = TypeVar("T")

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the step as a CUDA graph needs a GPU")

VARIANTS = {
    "default": SMATSettings(experts=2),
    "first": SMATSettings(experts=2, pool="first", inner_lr=0.1),
    "teacher-student": SMATSettings(experts=2, kd_direction="teacher_student", kd=0.6, kd_temperature=3),
    "without-teachers": SMATSettings(experts=2, kd=0),
}
EXACT = {torch.float32: 2e-3, torch.float64: 1e-9}
"""How far gradients may be apart by rounding, relative to their norm."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def net(vit) -> FlatBackbone:
    return FlatBackbone.of(vit)


def in_double(net: FlatBackbone) -> FlatBackbone:
    """The same on weights of float64; the frozen module itself takes no part."""
    return replace(net, base=net.base.double())


def random_task(net: FlatBackbone, shots: int, queries: int, way: int) -> FeaturedTask:
    """`shots` more images than classes in the support set."""
    rng, device = seeded(shots + 10 * queries + 100 * way), net.base.device
    support, query = (torch.randn(n, 3, 64, 64, generator=rng).to(device) for n in (way + shots, queries))
    labels = torch.cat([torch.arange(way), torch.randint(way, (shots,), generator=rng)]).to(device)
    features = [net.backbone.features(images).to(net.base) for images in (support, query)]
    asked = torch.randint(way, (queries,), generator=rng).to(device)
    return FeaturedTask(support.to(net.base), labels, query.to(net.base), asked, way, *features)


def random_bank(net: FlatBackbone, settings: SMATSettings) -> Params:
    bank = {name: values.to(net.base) for name, values in start_bank(net, settings, seed=0).items()}
    rng = seeded(1)
    bank[DELTA] = (0.1 * net.base.abs().mean() * torch.randn(bank[DELTA].shape, generator=rng).to(net.base)).detach()
    bank[LOGITS] = (4 * bank[LOGITS]).clamp(-4.6, 4.6)
    bank[MULTIPLIERS] = torch.rand(settings.experts, generator=rng).to(net.base)
    return {name: values.requires_grad_(name in trained(bank)) for name, values in bank.items()}


def gradients(bank: Params, loss: SMATLoss) -> Params:
    leaves = {name: values for name, values in bank.items() if values.requires_grad}
    return dict(zip(leaves, grad(loss.total, list(leaves.values())), strict=True))


def figures(loss: SMATLoss) -> dict[str, torch.Tensor]:
    """All that a loss says, by name."""
    state = {f"state {name}": values for name, values in loss.state.items()}
    seen = {"total": loss.total, "accuracy": loss.accuracy, "sparsity": loss.sparsity, "weights": loss.routing.weights}
    return {name: values.detach().float().cpu() for name, values in (dict(loss.parts) | state | seen).items()}


def assert_near(found: Params, expected: Params, within: float) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        apart = (found[name].to(values) - values).norm()
        assert apart <= within * values.norm() + 1e-12, f"{name}: {apart / values.norm():.1e}"


# Padding.


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    way=strategies.integers(2, 6),
    shots=strategies.integers(0, 4),
    queries=strategies.integers(1, 6),
    more=strategies.tuples(*[strategies.integers(0, 5)] * 3),
)
def test_padding_changes_neither_loss_nor_gradients(net, variant, way, shots, queries, more):
    net, options = in_double(net), VARIANTS[variant]
    bank = random_bank(net, options)
    task = random_task(net, shots, queries, way)
    larger = padded(task, Bucket(way + shots + more[0], queries + more[1], way + more[2]))
    noise = logistic_noise((options.experts,), seeded(2))
    found, expected = (smat_loss(bank, net, one, options, 1.5, noise) for one in (larger, task))
    torch.testing.assert_close(figures(found), figures(expected), rtol=1e-6, atol=1e-7)
    assert_near(gradients(bank, found), gradients(bank, expected), EXACT[torch.float64])


def test_a_padded_task_is_of_its_buckets_size_and_the_same_in_front(net):
    task = random_task(net, 13, 18, 5)
    bucket = bucket_of(task)
    assert bucket == Bucket(24, 24, 64)
    larger = padded(task, bucket)
    assert larger.support_images.shape == (24, 3, 64, 64) and len(larger.query_features) == 24
    assert torch.equal(larger.support_images[:18], task.support_images)
    assert not larger.support_images[18:].any()
    assert larger.support_labels.tolist() == task.support_labels.tolist() + [-100] * 6
    assert larger.classes.tolist() == [True] * 5 + [False] * 59


def test_buckets_are_few_and_not_much_larger_than_the_task(net):
    task = random_task(net, 0, 1, 2)

    def images(n: int) -> int:
        return bucket_of(replace(task, query_labels=torch.zeros(n, dtype=torch.int64))).query

    sizes = [images(n) for n in range(1, 513)]
    assert sorted(set(sizes)) == [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    assert all(n <= size <= max(16, 1.5 * n) for n, size in enumerate(sizes, 1))


# Nothing waits.


class WithoutWaiting(TorchDispatchMode):
    """Refuses what would have a GPU finish before Python goes on, or copy a number of Python's there."""

    WAITING = (
        "_local_scalar_dense",
        "item",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "lift_fresh",
        "bincount",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            masks = [values for values in args[1] if values is not None and values.dtype == torch.bool]
            assert not masks, f"{name} of a mask waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_step_waits_for_the_device(net, variant, monkeypatch):
    monkeypatch.setattr("fewshot_cli.engine.meta.smat.gates.is_closing", lambda shares: True)  # as on a GPU
    options = VARIANTS[variant]
    bank, task = random_bank(net, options), random_task(net, 4, 6, 3)
    noise, temperature = logistic_noise((options.experts,), seeded()).float(), torch.tensor(1.5)
    with WithoutWaiting():
        smat_loss(bank, net, padded(task, Bucket(8, 8, 4)), options, temperature, noise).total.backward()
    assert all(values.grad is not None for values in bank.values() if values.requires_grad)
    with WithoutWaiting(), pytest.raises(AssertionError, match="waits"):
        bool(temperature > 1)


# The step.


class FakeRecorder:
    """Replays by doing the work again."""

    def run(self, work: Callable[[], T]) -> T:
        return work()

    def record(self, work: Callable[[], T]) -> Callable[[], T]:
        return work


def on_cpu(fake: FakeRecorder | None) -> FastPath[GatePasses] | None:
    return None if fake is None else FastPath(IN_CHUNKS, fake, pytest.fail)


def practised(step: SMATStep | None, bank: Params, net: FlatBackbone, options: SMATSettings, forget: str) -> Params:
    """Four batches of two tasks of three sizes, a learning step after each; the gradients of the last, and figures.

    Without a step it is `smat_loss` and `backward`. The gradients are set to None, or to 0, as `forget` says.
    """
    tasks = [random_task(net, n, 3 + n, 3) for n in (0, 2, 20)]
    names = [name for name, values in bank.items() if values.requires_grad]
    for number in range(8):
        task, temperature, rng = tasks[number % 3], 5 - 0.5 * number, seeded(number)
        if number % 2 == 0:
            for name in names:
                bank[name].grad = None if forget == "none" or bank[name].grad is None else bank[name].grad.zero_()
        if step is None:
            loss = smat_loss(bank, net, task, options, temperature, rng)
            (0.5 * loss.total).backward()
        else:
            loss = step(task, temperature, rng, share=0.5)
        if number % 2:
            last = {name: bank[name].grad.clone() for name in names}
            with torch.no_grad():
                for name in names:
                    bank[name] -= 1e-3 * bank[name].grad
                for name, values in loss.state.items():
                    bank[name].copy_(values)
    return last | {f"figure {name}": values for name, values in figures(loss).items()}


@pytest.mark.slow
@pytest.mark.parametrize("forget", ["none", "zero"])
@pytest.mark.parametrize("fake", [None, FakeRecorder()], ids=["called", "recorded"])
def test_steps_are_what_loss_and_backward_are(net, fake, forget):
    net, options = in_double(net), VARIANTS["default"]
    banks = [random_bank(net, options) for _ in range(2)]
    step = SMATStep(banks[0], net, options, on_cpu(fake))
    found = practised(step, banks[0], net, options, forget)
    assert_near(found, practised(None, banks[1], net, options, forget), 1e-6)


@pytest.mark.slow
def test_a_steps_figures_need_no_gradient_and_stay(net):
    options = VARIANTS["default"]
    bank, task = random_bank(net, options), random_task(net, 4, 6, 3)
    step = SMATStep(bank, net, options, on_cpu(FakeRecorder()))
    seen = [step(task, 2.0) for _ in range(4)]
    assert all(not loss.total.requires_grad for loss in seen)
    assert len({loss.total.data_ptr() for loss in seen}) == 4
    torch.testing.assert_close(figures(seen[0]), figures(seen[3]))
    expected = gradients(bank, smat_loss(bank, net, task, options, 2.0))
    found = {name: values.grad / 4 for name, values in bank.items() if values.requires_grad}
    assert_near(found, expected, EXACT[torch.float32])


@no_gpu
def test_graphs_on_a_gpu_are_what_loss_and_backward_are(random_weights):
    device = torch.device("cuda")
    net = FlatBackbone.of(build_backbone("test_vit", random_weights("test_vit"), 64, device))
    options = VARIANTS["default"]
    banks = [random_bank(net, options) for _ in range(2)]
    step = SMATStep(banks[0], net, options, fast_path("on", device, options.experts, pytest.fail))
    found = practised(step, banks[0], net, options, "none")
    assert_near(found, practised(None, banks[1], net, options, "none"), 1e-2)


@no_gpu
def test_a_step_on_a_gpu_waits_for_nothing(random_weights):
    device = torch.device("cuda")
    net = FlatBackbone.of(build_backbone("test_vit", random_weights("test_vit"), 64, device), torch.bfloat16)
    options = VARIANTS["default"]
    step = SMATStep(random_bank(net, options), net, options, fast_path("on", device, options.experts, pytest.fail))
    task = random_task(net, 4, 6, 3)
    for _ in range(4):
        step(task, 2.0, seeded())
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(task, 2.0, seeded())
    finally:
        torch.cuda.set_sync_debug_mode("default")


# The benchmark.

BENCHMARK = Path(__file__).resolve().parents[4] / "benchmarks" / "smat_gpu.py"


def benchmarked(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_benchmark_runs_on_a_cpu():
    small = ("--backbone", "test_vit", "--image-size", "64", "--rounds", "1")
    done = benchmarked("--device", "cpu", *small, "--images", "3x5", "10x10")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line in lines[:2]:
        found = json.loads(line)
        assert max(found["loss_error"], found["delta_error"], found["logits_error"]) < 1e-3
        assert found["ratio"] > 0 and found["bucket"] == [16, 16, 64]
    assert len(lines) == 3 and "Not met" in lines[2]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_says_that_there_is_no_gpu():
    done = benchmarked()
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "There is no GPU here, so nothing was measured.\n"


# Memory.


@pytest.mark.slow
def test_a_task_too_large_for_memory_goes_through_in_chunks(net):
    """And nothing is left of what failed half-way."""
    options, task = VARIANTS["default"], random_task(net, 9, 12, 3)
    banks = [random_bank(net, options) for _ in range(2)]
    expected = SMATStep(banks[0], net, options)(task, 2.0, seeded())
    short = replace(net, backbone=replace(net.backbone, trained_limit=ChunkLimit()))

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = net.backbone.module.register_forward_pre_hook(refuse)
    try:
        found = SMATStep(banks[1], short, options)(task, 2.0, seeded())
    finally:
        hook.remove()
    torch.testing.assert_close(figures(found), figures(expected), rtol=1e-4, atol=1e-5)
    leaves = [{name: values.grad for name, values in bank.items() if values.requires_grad} for bank in banks]
    assert_near(leaves[1], leaves[0], EXACT[torch.float32])
    assert short.backbone.trained_limit.pictures == 3
