"""The training loop against torch's optimisers and schedules, driven by hand."""

import pytest
import torch

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
