"""Descent in groups against torch's own optimisers, and what it takes to go on after a stop."""

import pytest
import torch

from fewshot_cli.engine.train.optimiser import Descent, Group, add_gradients

START = {"a": torch.tensor([1.0, -2.0, 3.0]), "b": torch.tensor([[0.5], [2.0]]), "still": torch.tensor([7.0])}
GROUPS = (
    Group(("a",), "sgd", 0.1, momentum=0.9, weight_decay=0.01),
    Group(("b",), "adamw", 0.05, weight_decay=0.1, clip=0.5),
)


def loss(params, step):
    return (params["a"] - step).square().sum() + (params["b"] ** 4).sum() * (1 + 0.1 * step) + params["still"].sum()


def walked(descent, steps):
    for step in steps:
        loss(descent.params, step).backward()
        descent.step([0.1 / (1 + step), 0.05])
    return descent


def test_each_group_walks_as_its_optimiser_does():
    found = walked(Descent(START, GROUPS), range(5)).params
    a, b = (START[name].clone().requires_grad_() for name in "ab")
    sgd = torch.optim.SGD([a], lr=0.1, momentum=0.9, weight_decay=0.01)
    adamw = torch.optim.AdamW([b], lr=0.05, weight_decay=0.1)
    for step in range(5):
        sgd.param_groups[0]["lr"] = 0.1 / (1 + step)
        loss({"a": a, "b": b, "still": START["still"]}, step).backward()
        torch.nn.utils.clip_grad_norm_([b], 0.5)
        for optimiser in (sgd, adamw):
            optimiser.step()
            optimiser.zero_grad()
    torch.testing.assert_close(found["a"], a)
    torch.testing.assert_close(found["b"], b)


def test_what_belongs_to_no_group_stays_and_the_start_is_never_touched():
    before = {name: values.clone() for name, values in START.items()}
    found = walked(Descent(START, GROUPS), range(3)).params
    assert torch.equal(found["still"], before["still"]) and not found["still"].requires_grad
    assert all(torch.equal(START[name], before[name]) for name in START)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_descent_that_is_restored_goes_on_to_the_same_bits(stop):
    straight = walked(Descent(START, GROUPS), range(6))
    stopped = walked(Descent(START, GROUPS), range(stop))
    state = {name: values.clone() for name, values in stopped.state().items()}
    params = {name: values.detach().clone() for name, values in stopped.params.items()}
    again = walked(Descent(START, GROUPS), range(2))  # whatever it had done before
    again.write_(params)
    again.restore(state)
    walked(again, range(stop, 6))
    assert all(torch.equal(again.params[name], straight.params[name]) for name in START)
    assert {name: values.tolist() for name, values in again.state().items()} == {
        name: values.tolist() for name, values in straight.state().items()
    }


def test_the_memory_is_named_by_what_it_is_of():
    state = walked(Descent(START, GROUPS), range(1)).state()
    assert set(state) == {"momentum_buffer/a", "exp_avg/b", "exp_avg_sq/b", "step/b"}


def test_gradients_are_added_as_backward_adds_them_or_not_at_all():
    rng = torch.Generator().manual_seed(0)

    def params() -> dict[str, torch.Tensor]:
        values = {"a": torch.ones(3, 2), "b": torch.ones(2, 3).T, "c": torch.ones(4), "idle": torch.ones(1)}
        return {name: value.clone().requires_grad_() for name, value in values.items()} | {"fixed": torch.ones(2)}

    slopes = [torch.randn(3, 2, generator=rng) for _ in range(2)]
    found, expected = params(), params()
    for slope in slopes:
        for some, add in ((found, True), (expected, False)):
            loss = ((some["a"] + some["b"]) * slope).sum() + some["c"].sum()
            add_gradients(loss, some) if add else loss.backward()
    for name, values in expected.items():
        if values.grad is None:
            assert found[name].grad is None
        else:
            assert torch.equal(found[name].grad, values.grad)
            assert found[name].grad.stride() == values.grad.stride()
    assert found["a"].grad.data_ptr() != found["b"].grad.data_ptr()

    class Refused(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, slope):
            raise torch.OutOfMemoryError("CUDA out of memory")

    before = {name: values.grad.clone() for name, values in found.items() if values.grad is not None}
    with pytest.raises(torch.OutOfMemoryError):
        add_gradients(found["c"].sum() + Refused.apply(found["a"]).sum(), found)
    for name, values in before.items():
        assert torch.equal(found[name].grad, values)
