"""Gates in a bit each, next to the gates that they stand for."""

import pytest
import torch

from fewshot_cli.engine.defaults import TRAINING_BETA
from fewshot_cli.engine.meta.smat import packed_gates
from fewshot_cli.engine.meta.smat.gates import EVALUATION_BETA, clamp_logits_, gates, interpolate
from fewshot_cli.engine.meta.smat.packed_gates import PackedGates, pruned

BETAS = pytest.mark.parametrize("beta", [TRAINING_BETA, EVALUATION_BETA])


def random_bank(size, number, dtype=torch.float32):
    """Base, delta, logits with closed, open and in-between gates, and weights that add up to 1."""
    rng = torch.Generator().manual_seed(0)
    base, delta = torch.randn(2, size, generator=rng, dtype=dtype)
    logits = 6 * torch.randn(number, size, generator=rng, dtype=dtype)
    clamp_logits_(logits)
    weights = torch.rand(number, generator=rng, dtype=dtype)
    return base, delta, logits, weights / weights.sum()


@BETAS
@pytest.mark.parametrize("number", [1, 3, 8, 11])
def test_packed_gates_merge_to_the_same_weights(beta, number, monkeypatch):
    monkeypatch.setattr(packed_gates, "CPU_CHUNK", 300)
    monkeypatch.setattr(packed_gates, "PACKED_CHUNK", 300)
    base, delta, logits, weights = random_bank(1000, number)
    packed = PackedGates.of(logits, beta)
    assert (packed.size, packed.experts) == (1000, number)
    assert 0 < len(packed.positions) < 1000  # some are in between and some are not
    expected = interpolate(base, delta, logits, weights, beta).weights
    torch.testing.assert_close(packed.merged(base, delta, weights), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(base + packed.mixed(weights) * delta, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("number", [1, 8, 11])
def test_gates_that_are_given_are_packed_as_those_of_logits(number):
    _, _, logits, _ = random_bank(1000, number)
    expected, found = PackedGates.of(logits, TRAINING_BETA), PackedGates.of_gates(gates(logits))
    assert all(map(torch.equal, vars(expected).values(), vars(found).values()))


def test_packed_gates_of_0_and_1_are_a_byte_for_each_weight():
    base, delta, logits, weights = random_bank(1000, 8)
    packed = PackedGates.of(logits.sign() * 4, TRAINING_BETA)
    assert packed.bytes == 1000
    z = (logits > 0).float()
    torch.testing.assert_close(packed.merged(base, delta, weights), base + (weights @ z) * delta)


def test_rounded_gates_go_to_the_nearer_of_0_and_1():
    _, _, logits, weights = random_bank(1000, 8)
    rounded = PackedGates.of(logits, TRAINING_BETA).rounded()
    assert rounded.bytes == 1000
    torch.testing.assert_close(rounded.mixed(weights), weights @ (gates(logits) >= 0.5).float())


@pytest.mark.parametrize(("density", "kept"), [(0, []), (0.25, [3]), (0.5, [1, 3]), (1, [0, 1, 2, 3])])
def test_pruning_keeps_the_largest(density, kept):
    change = torch.tensor([0.1, -2.0, 0.3, 5.0])
    assert pruned(change, density).nonzero().squeeze(1).tolist() == kept
    assert torch.equal(pruned(change, density)[kept], change[kept])
