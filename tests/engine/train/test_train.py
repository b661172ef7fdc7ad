"""The training loop against torch's optimisers and schedules, driven by hand."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_cli.engine.train.settings import Optim
from fewshot_cli.engine.train.train import fit
from fewshot_cli.errors import FewshotError

START = {"a": torch.tensor([1.0, -2.0, 3.0]), "b": torch.tensor([[0.5], [2.0]])}


def loss(params, step):
    """Another function in each step, so that the order of steps matters."""
    return (params["a"] - step).square().sum() + (params["b"] ** 4).sum() * (1 + 0.1 * step)


def by_hand(optim: Optim, lr_of_b: float = 1.0):
    params = {name: values.clone().requires_grad_() for name, values in START.items()}
    groups = [{"params": [params["a"]], "lr": optim.lr}, {"params": [params["b"]], "lr": optim.lr * lr_of_b}]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    kind = (kinds | {"adadelta": torch.optim.Adadelta})[optim.name]
    extra = {"momentum": optim.momentum} if optim.name == "sgd" else {}
    optimiser = kind(groups, weight_decay=optim.weight_decay, **extra)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=optim.steps)
    losses = []
    for step in range(optim.steps):
        value = loss(params, step)
        losses.append(value.item())
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if optim.schedule == "cosine":
            schedule.step()
    return params, losses


def whole(params, step):
    yield loss(params, step)


def test_a_loss_in_parts_is_the_loss():
    def parts(params, step):
        yield 0.25 * loss(params, step)
        yield 0.75 * loss(params, step)

    heard, heard_of_parts = [], []
    optim = Optim(lr=0.01, steps=5)
    trained = fit(whole, START, optim, lambda *report: heard.append(report[2]))
    in_parts = fit(parts, START, optim, lambda *report: heard_of_parts.append(report[2]))
    assert heard_of_parts == pytest.approx(heard)
    for name in START:
        torch.testing.assert_close(in_parts[name], trained[name])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adadelta"])
def test_fit_walks_as_torch_does(name, decay, schedule):
    momentum = {"momentum": 0.8} if name == "sgd" else {}
    optim = Optim(name=name, lr=0.01, steps=7, weight_decay=decay, schedule=schedule, **momentum)
    heard = []
    trained = fit(whole, START, optim, lambda *report: heard.append(report), lr_scale={"b": 0.25})
    expected, losses = by_hand(optim, lr_of_b=0.25)
    for key in START:
        torch.testing.assert_close(trained[key], expected[key].detach())
        assert not trained[key].requires_grad
    assert [(step, steps) for step, steps, _ in heard] == [(i + 1, 7) for i in range(7)]
    assert [value for *_, value in heard] == pytest.approx(losses)


def test_fit_leaves_the_start_alone_and_no_steps_lead_nowhere():
    before = {name: values.clone() for name, values in START.items()}
    fit(whole, START, Optim(steps=3))
    assert all(torch.equal(START[name], before[name]) for name in START)
    still = fit(whole, START, Optim(steps=0))
    assert all(torch.equal(START[name], still[name]) for name in START)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_breaks_off_and_names_the_step(bad):
    def broken(params, step):
        return [params["a"].sum() * (bad if step == 2 else 1.0)]

    with pytest.raises(FewshotError, match="step 3 of 5") as caught:
        fit(broken, START, Optim(steps=5, lr=0.02))
    assert "--set method.tuning.optim.lr=0.002" in caught.value.hint


def test_a_last_step_into_nowhere_is_noticed_too():
    """The square root of zero is a fine loss with an infinite slope: no later loss would show it."""
    with pytest.raises(FewshotError, match="step 1 of 1"):
        fit(lambda params, step: [params["a"].sqrt().sum()], {"a": torch.zeros(2)}, Optim(name="sgd", steps=1))


class Reads(TorchDispatchMode):
    """Counts how often a number leaves the device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ == "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("every", "reads"), [(None, 25), (1, 25), (10, 25)])
def test_losses_are_read_now_and_then_and_all_are_heard_in_order(every, reads):
    """As many numbers in the end, but those of a GPU wait for each other and not for every step."""
    optim, heard, read_at = Optim(lr=0.01, steps=25), [], []

    def noted(params, step):
        read_at.append(len(heard))
        yield loss(params, step)

    watch = lambda step, steps, value: heard.append((step, value))  # noqa: E731
    fit(noted, START, optim, watch, read_every=every)
    assert [step for step, _ in heard] == list(range(1, reads + 1))
    assert [value for _, value in heard] == by_hand(optim)[1]
    if every == 10:
        assert read_at == [0] * 10 + [10] * 10 + [20] * 5
    else:
        assert read_at == list(range(25))


def test_no_step_between_reads_waits_for_the_device():
    def counted(steps):
        with Reads() as reads:
            fit(whole, START, Optim(name="sgd", momentum=0.0, lr=1e-3, steps=steps), read_every=100)
        return reads.count - steps

    assert counted(12) == counted(3)  # besides each loss, which is read at the end, only what is read once


def test_the_first_loss_that_is_no_number_is_named_however_seldom_losses_are_read():
    def breaking(params, step):
        yield loss(params, step) * (torch.nan if step >= 3 else 1)

    heard = []
    with pytest.raises(FewshotError, match="step 4 of 30"):
        fit(breaking, START, Optim(steps=30), lambda *report: heard.append(report), read_every=10)
    assert heard == []


def test_a_step_that_runs_out_of_memory_is_done_again_in_smaller_parts():
    sizes = [8]

    def parts(params, step):
        for _ in range(8 // sizes[-1]):
            yield loss(params, step) * (sizes[-1] / 8)
            if sizes[-1] > 2 and step == 2:  # the gradient of the first part is there already
                raise torch.OutOfMemoryError("CUDA out of memory")

    optim, heard = Optim(lr=0.01, steps=5), []
    found = fit(
        parts, START, optim, lambda *report: heard.append(report[2]), smaller=lambda: sizes.append(sizes[-1] // 2)
    )
    assert sizes == [8, 4, 2]
    expected, losses = by_hand(optim)
    assert heard == pytest.approx(losses)
    for name in START:
        torch.testing.assert_close(found[name], expected[name].detach())
    with pytest.raises(torch.OutOfMemoryError):
        sizes.append(8)
        fit(parts, START, optim)
