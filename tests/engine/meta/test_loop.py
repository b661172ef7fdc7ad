"""The loop of meta-tuning as a library: what docs/meta-tuning.md shows, and a run that another one takes up."""

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.loop import Diverged, Practice, epochs
from fewshot_cli.engine.meta.settings import Training, Validation, ViewSettings
from fewshot_cli.engine.meta.task_source import TaskSource, kept_apart
from fewshot_cli.engine.meta.validation import best, is_out_of_patience
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.dense import DenseMetaTuning
from fewshot_cli.methods.mamf import MAMF
from fewshot_cli.methods.smat import SMAT

DOCS = Path(__file__).parents[3] / "docs" / "meta-tuning.md"
TRAINING = Training(protocol=Fixed(way=3, shots=1, queries=2), epochs=2, episodes=4)


@pytest.fixture(scope="module")
def sets(pictures) -> dict[str, Any]:
    return {name: pictures((8, 8, 8), seed) for seed, name in enumerate(("day", "night"))}


@pytest.fixture(scope="module")
def source(sets, vit) -> TaskSource:
    domains = [Domain.of_pictures(name, images, labels, vit) for name, (images, labels) in sets.items()]
    return TaskSource(vit, *kept_apart(domains, TRAINING, 0))


def example() -> str:
    """The Python of the documentation."""
    return DOCS.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(sets, random_weights, capsys):
    found: dict[str, Any] = {"weights": random_weights("test_vit"), "sets": sets}
    exec(compile(example(), str(DOCS), "exec"), found)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == ["epoch 0", "epoch 1"]
    assert found["kept"].delta.abs().max() > 0 and found["practice"].tasks == 8
    assert set(found["backbone"].params) < set(found["bank"]) and found["state"].step == 8


@pytest.mark.slow
@pytest.mark.parametrize("method", [DenseMetaTuning(lr=1e-2), MAMF(way=3, tasks=2)], ids=lambda method: method.name)
def test_a_state_goes_on_in_another_run(method, source):
    straight = Practice.start(method, TRAINING, source)
    found = list(epochs(straight))
    first, second = (Practice.start(method, TRAINING, source) for _ in range(2))
    steps = epochs(first)
    next(steps)
    first.advance()
    first.read()
    second.restore(first.state())
    assert second.step == first.step and second.epochs == first.epochs == found[:1]
    assert list(epochs(second)) == found[1:]
    assert all(torch.equal(straight.bank[name], values) for name, values in second.bank.items())


def test_a_state_of_another_method_is_none(source):
    state = Practice.start(MAMF(way=3), TRAINING, source).state()
    with pytest.raises(ValueError, match="is none of"):
        Practice.start(DenseMetaTuning(), TRAINING, source).restore(state)


@pytest.mark.slow
def test_every_step_is_told_of(source):
    heard: list[int] = []
    practice = Practice.start(DenseMetaTuning(), TRAINING, source)
    list(epochs(practice, lambda: heard.append(practice.step)))
    assert heard == list(range(1, 9))


def test_a_loss_that_is_no_number_ends_the_run(source):
    practice = Practice.start(DenseMetaTuning(lr=1e30), TRAINING, source)
    with pytest.raises(Diverged, match=r"broke off in episode \d"):
        list(epochs(practice))


def test_what_a_method_needs_it_says_before_the_first_step(source):
    with pytest.raises(FewshotError, match="A task of 9 classes can't be drawn from 6"):
        Practice.start(MAMF(way=9), TRAINING, source)
    with pytest.raises(FewshotError, match="target noon is none"):
        Practice.start(
            DenseMetaTuning(), Training(protocol=TRAINING.protocol, target="noon", sampler={"name": "exp3"}), source
        )


@pytest.mark.parametrize(
    ("accuracies", "select", "kept", "ends"),
    [
        ((0.5, 0.9, 0.9, 0.7), "best", 1, True),
        ((0.5, 0.6, 0.9), "best", 2, False),
        ((0.5, None), "best", 1, False),
        ((0.9, 0.5), "last", 1, False),
    ],
)
def test_which_bank_is_kept_and_when_a_run_ends(accuracies, select, kept, ends):
    settings = Validation(select=select, patience=2 if select == "best" else None)
    assert best(accuracies, settings) == kept
    assert is_out_of_patience(accuracies, settings) == ends
    assert not is_out_of_patience((), settings)


class Waits(TorchDispatchMode):
    """Counts the numbers that leave the device; an optimiser's count of its steps lies on the CPU in any case."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
            callers = [frame.filename for frame in traceback.extract_stack()]
            self.count += not any("torch/optim" in name for name in callers)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "method", [SMAT(experts=2), DenseMetaTuning(), DenseMetaTuning(clip=1.0)], ids=["smat", "dense", "clipped"]
)
def test_no_step_of_practice_reads_a_number_from_the_device(method, source, monkeypatch):
    """Only `read` does, now and then."""
    monkeypatch.setattr("fewshot_cli.engine.meta.smat.gates.is_closing", lambda shares: True)  # as on a GPU
    practice = Practice.start(method, TRAINING.model_copy(update={"views": ViewSettings()}), source)
    practice.advance()
    with Waits() as waits:
        practice.advance()
    assert waits.count == 0
    with Waits() as waits:
        practice.read()
    assert waits.count > 0
