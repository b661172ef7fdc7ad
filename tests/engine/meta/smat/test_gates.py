"""Hard-concrete gates, what keeps them sparse, and the fused pass next to its definition."""

import math

import pytest
import torch

from fewshot_cli.engine.defaults import TRAINING_BETA
from fewshot_cli.engine.meta.smat import gates as experts
from fewshot_cli.engine.meta.smat.gates import (
    EVALUATION_BETA,
    Merged,
    constraint,
    density_penalty,
    gates,
    interpolate,
    open_probability,
    reset,
    sparsity,
    sparsity_by_parameter,
    start_logits,
)
from fewshot_cli.engine.model.flat_params import Layout

BETAS = pytest.mark.parametrize("beta", [TRAINING_BETA, EVALUATION_BETA])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bank(size, number, dtype=torch.float32):
    """Base, delta, logits with closed, open and in-between gates, and weights that add up to 1."""
    rng = seeded()
    base, delta = torch.randn(2, size, generator=rng, dtype=dtype)
    logits = 6 * torch.randn(number, size, generator=rng, dtype=dtype)
    experts.clamp_logits_(logits)
    weights = torch.rand(number, generator=rng, dtype=dtype)
    return base, delta, logits, weights / weights.sum()


def defined(base, delta, logits, weights, beta):
    """`interpolate` as it is defined, by autograd."""
    z = (1.2 * torch.sigmoid(logits / beta) - 0.1).clamp(0, 1)
    l0 = 1 - torch.sigmoid(2 / 3 * math.log(0.1 / 1.1) - logits).clamp(1e-6, 1 - 1e-6)
    return Merged(base + (weights[:, None] * z).sum(0) * delta, l0.mean(1), (z == 0).to(logits.dtype).mean(1))


@BETAS
@pytest.mark.parametrize("size", [1, 8, 21])
def test_the_fused_pass_gives_the_defined_values_and_gradients(beta, size, monkeypatch):
    monkeypatch.setattr(experts, "CPU_CHUNK", 8)  # several chunks, the last of them shorter
    base, *leaves = random_bank(size, 3, torch.float64)
    found, gradients = [], []
    for merge in (interpolate, defined):
        inputs = [values.clone().requires_grad_() for values in leaves]
        merged = merge(base, *inputs, beta)
        (merged.weights.sin().sum() + merged.expected_l0 @ torch.arange(3.0).double()).backward()
        found.append(merged)
        gradients.append([values.grad for values in inputs])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_the_gates_of_masks_that_never_change_get_no_gradient(monkeypatch):
    """Nor is it computed: the same gradients of all else, and nothing of the gates' size is made."""
    base, *leaves = random_bank(50, 3, torch.float64)
    asked = []
    backward = experts.InChunks.backward
    monkeypatch.setattr(
        experts.InChunks, "backward", lambda self, *args: asked.append(args[6] is None) or backward(self, *args)
    )
    gradients = []
    for is_learned in (True, False):
        delta, logits, weights = (values.clone().requires_grad_() for values in leaves)
        logits.requires_grad_(is_learned)
        merged = interpolate(base, delta, logits, weights)
        (merged.weights.sin().sum() + merged.expected_l0.sum()).backward()
        gradients.append((delta.grad, weights.grad))
        assert (logits.grad is not None) == is_learned
    assert asked == [False, True]
    assert all(map(torch.equal, *gradients))


def test_experts_that_are_sparse_enough_cost_no_pass_over_what_would_close_them(monkeypatch):
    """With no multiplier above 0 nothing closes gates: the same gradients, and their probabilities are not asked."""
    base, *leaves = random_bank(50, 3, torch.float64)
    asked = []
    monkeypatch.setattr(
        experts, "open_probability", lambda logits: asked.append(logits.shape) or open_probability(logits)
    )
    gradients = []
    for merge in (interpolate, defined):
        inputs = [values.clone().requires_grad_() for values in leaves]
        merged = merge(base, *inputs, TRAINING_BETA)
        (merged.weights.sin().sum() + 0 * merged.expected_l0.sum()).backward()
        gradients.append([values.grad for values in inputs])
    assert len(asked) == 1  # in the forward pass
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@BETAS
def test_the_fused_pass_under_gradcheck(beta):
    base, *leaves = random_bank(11, 4, torch.float64)
    inputs = [values.requires_grad_() for values in leaves]
    assert torch.autograd.gradcheck(lambda *values: interpolate(base, *values, beta)[:2], inputs)


def test_the_fused_pass_keeps_nothing_but_its_inputs():
    base, *leaves = random_bank(100, 4)
    inputs = [values.requires_grad_() for values in leaves]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved.data_ptr()), lambda saved: saved):
        interpolate(base, *inputs)
    assert set(kept) == {values.data_ptr() for values in inputs}


def test_without_a_delta_the_weights_stay_as_they_are_to_the_bit():
    base, delta, logits, weights = random_bank(1000, 4)
    assert torch.equal(interpolate(base, torch.zeros_like(delta), logits, weights).weights, base)


@pytest.mark.parametrize(("beta", "edge"), [(TRAINING_BETA, 1.59859), (EVALUATION_BETA, 2.39789)])
def test_gates_close_and_open_at_the_published_edges(beta, edge):
    inside, outside = edge - 1e-4, edge + 1e-4
    z = gates(torch.tensor([-outside, -inside, inside, outside], dtype=torch.float64), beta)
    assert z[0] == 0 and 0 < z[1] < 1e-3
    assert 1 - 1e-3 < z[2] < 1 and z[3] == 1


def test_gates_start_half_open():
    logits = start_logits(400_000, 2, seeded())
    merged = interpolate(torch.zeros(400_000), torch.zeros(400_000), logits, torch.ones(2) / 2)
    assert merged.expected_l0.tolist() == pytest.approx([0.8207, 0.8207], abs=5e-4)
    assert merged.sparsity.tolist() == pytest.approx([0.0007, 0.0007], abs=2e-4)
    assert gates(logits).mean().item() == pytest.approx(0.5, abs=1e-3)
    assert torch.equal(merged.sparsity, sparsity(gates(logits)))
    torch.testing.assert_close(merged.expected_l0, open_probability(logits).mean(1))


def test_clamping_keeps_the_range():
    logits = torch.tensor([-9.0, 0.5, 9.0])
    experts.clamp_logits_(logits)
    assert logits.tolist() == pytest.approx([math.log(0.01), 0.5, math.log(100)])


def test_sparsity_is_known_for_every_parameter():
    layout = Layout.of({"a": torch.zeros(2, 2), "b": torch.zeros(3)})
    logits = torch.tensor([[-9.0, -9.0, 0, 9, 0, 0, -9], [0, 0, 0, 0, -9, -9, -9]])
    found = sparsity_by_parameter(logits, layout)
    assert found["a"].tolist() == [0.5, 0]
    assert found["b"].tolist() == pytest.approx([1 / 3, 1])


def test_a_multiplier_rises_while_its_expert_is_too_dense_and_is_reset_after():
    multipliers = torch.tensor([0.3, 0.3], requires_grad=True)
    found, weights = torch.tensor([0.5, 0.95]), torch.tensor([0.5, 0.5])
    assert reset(multipliers, found, 0.9).tolist() == [pytest.approx(0.3), 0]
    constraint(multipliers, found, 0.9, weights).backward()
    assert multipliers.grad[0] < 0 < multipliers.grad[1]


def test_the_penalties_are_the_sums_they_are_said_to_be():
    multipliers, weights = torch.tensor([0.3, 0.1]), torch.tensor([0.25, 0.75])
    expected = (0.5 - 0.9) * 0.3 * 0.25 + (0.8 - 0.9) * 0.1 * 0.75
    assert constraint(multipliers, torch.tensor([0.5, 0.8]), 0.9, weights).item() == pytest.approx(expected)
    expected = (0.9 - 1 + 0.6) * 0.3 * 0.25 + (0.9 - 1 + 0.2) * 0.1 * 0.75
    assert density_penalty(multipliers, torch.tensor([0.6, 0.2]), 0.9, weights).item() == pytest.approx(expected)


def test_without_delta_and_multipliers_nothing_moves_the_gates():
    base, _, logits, weights = random_bank(50, 4)
    logits.requires_grad_()
    merged = interpolate(base, torch.zeros(50), logits, weights)
    (merged.weights.square().sum() + density_penalty(torch.zeros(4), merged.expected_l0, 0.9, weights)).backward()
    assert not logits.grad.any()


@pytest.mark.slow
def test_the_controller_follows_the_published_schedule_to_its_target():
    """R1 and R2 alone at the learning rates of ViT-S, 500 updates an epoch: the sparsities that the card gives."""
    size, updates = 4000, 500
    logits, multiplier, weight = start_logits(size, 1, seeded()), torch.zeros(1), torch.tensor([1 / 8])
    found, by_epoch = torch.zeros(1), []
    for epoch in range(13):
        factor = epoch / 5 if epoch < 5 else 0.5 * (1 + math.cos(math.pi * (epoch - 5) / 45))
        for _ in range(updates if epoch else 0):  # epoch 0 trains almost nothing
            found = (logits <= -1.59859).float().mean(1)
            multiplier = reset(multiplier, found, 0.9)
            p = open_probability(logits)
            slope = multiplier * weight * p * (1 - p) / size  # of R2
            multiplier = multiplier - factor * 0.002 * (found - 0.9) * weight
            logits = (logits - factor * 0.0462 * size * slope).clamp(experts.LOWEST_LOGIT, experts.HIGHEST_LOGIT)
        by_epoch.append(found.item())
    expected = {5: 0.007, 7: 0.09, 8: 0.25, 9: 0.47, 10: 0.68, 11: 0.82, 12: 0.90}
    assert [by_epoch[epoch] for epoch in expected] == pytest.approx(list(expected.values()), abs=0.02)
