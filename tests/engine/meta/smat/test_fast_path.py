"""The fast path is taken where it works, and where any part of it fails one sentence says so and training goes on."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from fewshot_cli.engine.meta.fast_path import FastPath
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.smat import fast_path as module
from fewshot_cli.engine.meta.smat.fast_path import Fault, available, check_near, fast_path
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import GatePasses, InChunks
from fewshot_cli.engine.meta.smat.loss import DELTA, LOGITS, MULTIPLIERS, start_bank, trained
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.meta.smat.step import SMATStep
from fewshot_cli.engine.params import Params
from fewshot_cli.errors import FewshotError

T = TypeVar("T")
CPU = torch.device("cpu")


class Kernels(InChunks):
    """The passes of a CPU, which fail, or are wrong, at one point."""

    def __init__(self, at: str = "") -> None:
        self.at = at

    def forward(self, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
        if self.at == "compile forward":
            raise RuntimeError("ptxas was not found\nand a long tale")
        merged, opened, positive = super().forward(*given)
        return (merged + 0.1 if self.at == "wrong weights" else merged), opened, positive

    def backward(self, *given: Any) -> tuple[Tensor, Tensor]:
        if self.at == "compile backward":
            raise RuntimeError("ptxas was not found")
        found = super().backward(*given)
        if self.at == "wrong gradient" and given[6] is not None:
            given[6].mul_(2)
        if self.at == "no number":
            found[0].fill_(torch.nan)
        return found


class Graphs:
    """Records as a GPU does, into one result for all replays; fails, or is wrong, at one point from a number on."""

    def __init__(self, at: str = "", after: int = 0) -> None:
        self.at, self.left = at, after

    def fails(self, at: str) -> bool:
        self.left -= at == self.at
        return at == self.at and self.left < 0

    def run(self, work: Callable[[], T]) -> T:
        if self.fails("run half"):
            work()
            raise RuntimeError("half-way")
        if self.fails("run"):
            raise RuntimeError("no stream")
        return work()

    def record(self, work: Callable[[], T]) -> Callable[[], T]:
        if self.fails("record"):
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.fails("record memory"):
            raise torch.OutOfMemoryError("CUDA out of memory")

        def replay() -> T:
            if self.fails("replay"):
                raise RuntimeError("illegal instruction")
            found = work()
            if self.fails("replay twice"):
                work()
            return found

        return replay


KERNELS = ("compile forward", "compile backward", "wrong weights", "wrong gradient", "no number")
GRAPHS = ("run half", "run", "record", "record memory", "replay", "replay twice")


@pytest.fixture
def tried(monkeypatch) -> Callable[..., tuple[FastPath[GatePasses] | None, list[str]]]:
    """The fast path of a GPU with these kernels and this recorder, and what is told of it."""

    def tried(wanted: Any, kernels: str = "", graphs: str = "") -> tuple[FastPath[GatePasses] | None, list[str]]:
        warn: list[str] = []
        monkeypatch.setattr(module, "available", lambda device: (Kernels(kernels), Graphs(graphs)))
        return fast_path(wanted, CPU, 3, warn.append), warn

    return tried


# --- at the start ---


def test_what_works_is_taken_without_a_word(tried):
    for wanted in ("auto", "on"):
        found, warn = tried(wanted)
        assert found is not None and warn == []


@pytest.mark.parametrize(("kernels", "graphs"), [*((at, "") for at in KERNELS), *(("", at) for at in GRAPHS)])
def test_what_fails_at_the_start_is_told_in_a_sentence_and_left(kernels, graphs, tried):
    found, (sentence,) = tried("auto", kernels, graphs)
    assert found is None
    assert sentence.startswith("Training takes the plain path") and sentence.endswith(".") and "\n" not in sentence
    with pytest.raises(FewshotError, match="does not work here"):
        tried("on", kernels, graphs)


def test_off_tries_nothing(monkeypatch):
    monkeypatch.setattr(module, "available", lambda device: pytest.fail("it was tried"))
    assert fast_path("off", CPU, 3, pytest.fail) is None


def test_a_gpu_without_triton_takes_the_plain_path(monkeypatch):
    monkeypatch.setattr(module, "recorder", lambda device: Graphs())  # and no kernel runs on this machine's device
    warn: list[str] = []
    assert fast_path("auto", CPU, 3, warn.append) is None
    assert "Triton is not installed" in warn[0]
    with pytest.raises(Fault, match="Triton"):
        available(CPU)


def test_a_cpu_has_no_fast_path():
    assert fast_path("auto", CPU, 3, pytest.fail) is None
    assert fast_path("off", CPU, 3, pytest.fail) is None
    with pytest.raises(FewshotError, match="would do nothing") as caught:
        fast_path("on", CPU, 3, pytest.fail)
    assert "--device" in caught.value.hint


def test_no_number_is_near_nothing():
    one = {"it": torch.ones(2)}
    check_near("a thing", one, one, 1e-4)
    for wrong in (1.1, torch.nan, torch.inf):
        with pytest.raises(Fault, match="it of a thing"):
            check_near("a thing", {"it": torch.tensor([1.0, wrong])}, one, 1e-4)


# --- step by step ---


@pytest.fixture(scope="module")
def net(vit) -> FlatBackbone:
    return FlatBackbone.of(vit)


def bank_of(net: FlatBackbone, settings: SMATSettings) -> Params:
    bank = start_bank(net, settings, seed=0)
    bank[DELTA] = 0.1 * net.base.abs().mean() * torch.randn(len(net.base), generator=torch.Generator().manual_seed(1))
    bank[LOGITS] = (4 * bank[LOGITS]).clamp(-4.6, 4.6)
    bank[MULTIPLIERS] = torch.full((settings.experts,), 0.5)
    return {name: values.clone().requires_grad_(name in trained(bank)) for name, values in bank.items()}


def tasks_of(net: FlatBackbone) -> list[FeaturedTask]:
    """Of two buckets."""
    rng, found = torch.Generator().manual_seed(2), []
    for queries in (5, 20):
        images = torch.randn(6 + queries, 3, 64, 64, generator=rng)
        labels = torch.arange(6 + queries) % 3
        features = net.backbone.features(images)
        found.append(FeaturedTask(images[:6], labels[:6], images[6:], labels[6:], 3, features[:6], features[6:]))
    return found


def gradients(net: FlatBackbone, fast: FastPath[GatePasses] | None) -> tuple[list[Params], list[float]]:
    """After each of six batches of two tasks, the gradients; and the losses. The bank moves on after each batch."""
    settings = SMATSettings(experts=2)
    bank, tasks = bank_of(net, settings), tasks_of(net)
    step, seen, losses = SMATStep(bank, net, settings, fast), [], []
    for batch in range(6):
        for place in range(2):
            rng = torch.Generator().manual_seed(2 * batch + place)
            losses.append(step(tasks[(batch // 2 + place) % 2], 2.0, rng, share=0.5).total.item())
        leaves = {name: values for name, values in bank.items() if values.grad is not None}
        seen.append({name: values.grad.clone() for name, values in leaves.items()})
        with torch.no_grad():
            for values in leaves.values():
                values -= 1e-2 * values.grad
                values.grad = None
    return seen, losses


@pytest.fixture(scope="module")
def plain(net) -> tuple[list[Params], list[float]]:
    return gradients(net, None)


def assert_plain(found: tuple[list[Params], list[float]], plain: tuple[list[Params], list[float]]) -> None:
    assert found[1] == pytest.approx(plain[1], rel=1e-4)
    for some, expected in zip(found[0], plain[0], strict=True):
        assert some.keys() == expected.keys()
        for name, values in expected.items():
            assert (some[name] - values).norm() <= 2e-3 * values.norm() + 1e-9, name


STAGES = [(at, after) for at in ("run", "run half") for after in (0, 1, 3)]
STAGES += [(at, after) for at in ("record", "record memory") for after in (0, 1)] + [("replay", 0), ("replay twice", 0)]
"""Where the first or a later bucket fails: two are warmed up twice, recorded and replayed."""


@pytest.mark.slow
@pytest.mark.parametrize(("at", "after"), STAGES)
def test_what_fails_in_a_step_is_told_once_and_nothing_of_it_stays(net, plain, at, after):
    warn: list[str] = []
    assert_plain(gradients(net, FastPath(Kernels(), Graphs(at, after), warn.append)), plain)
    (sentence,) = warn
    assert sentence.startswith("Training goes on without the fast path") and "images" in sentence


@pytest.mark.slow
@pytest.mark.parametrize("at", KERNELS)
def test_kernels_that_are_at_fault_on_a_whole_backbone_fall_back(net, plain, at):
    """However well they did in the trial at the start."""
    warn: list[str] = []
    assert_plain(gradients(net, FastPath(Kernels(at), Graphs(), warn.append)), plain)
    assert len(warn) == 1


@pytest.mark.slow
def test_where_nothing_fails_each_bucket_is_compared_twice_in_a_run(net, plain, monkeypatch):
    compared: list[str] = []
    near = "fewshot_cli.engine.meta.smat.step.check_near"
    monkeypatch.setattr(near, lambda what, *given: (compared.append(what), check_near(what, *given)))
    assert_plain(gradients(net, FastPath(Kernels(), Graphs(), pytest.fail)), plain)
    assert len(compared) == 4  # two buckets, each at its first step and at its first recording


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_not_the_fast_paths_fault(net):
    """The run breaks off at it, by whichever path."""
    settings = SMATSettings(experts=2)
    bank, task = bank_of(net, settings), tasks_of(net)[0]
    with torch.no_grad():
        bank[DELTA].fill_(torch.nan)
    step = SMATStep(bank, net, settings, FastPath(Kernels(), Graphs(), pytest.fail))
    assert all(step(task, 2.0).total.isnan() for _ in range(4))


@pytest.mark.slow
def test_the_kernels_themselves_pass_the_trial_in_tritons_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed")
    script = """
import runpy, sys, torch
from fewshot_cli.engine.meta.smat import fast_path, gates_triton
Graphs = runpy.run_path(sys.argv[1])["Graphs"]
fast_path.available = lambda device: (gates_triton, Graphs())
told = []
assert fast_path.fast_path("auto", torch.device("cpu"), 3, told.append) is not None, told
"""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script, __file__], env=environment, check=True)
