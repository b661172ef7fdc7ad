"""The router next to timm's transformer block under torch's spectral norm."""

import pytest
import torch
from scipy.stats import ks_2samp
from timm.models.vision_transformer import Block
from torch.nn.utils.parametrizations import spectral_norm

from fewshot_cli.engine.meta.smat.router import (
    folded,
    is_state,
    power_iterated,
    relaxed_bernoulli,
    route,
    start_router,
    temperature_after,
)

DIM, EXPERTS, WAY = 32, 8, 5


@pytest.fixture
def router():
    """A started router whose skill tokens and biases are of a size that matters."""
    started = start_router(DIM, EXPERTS, seed=0)
    rng = torch.Generator().manual_seed(1)
    random = {name: torch.randn(values.shape, generator=rng) for name, values in started.items() if values.ndim == 1}
    biases = {name: values for name, values in random.items() if name.endswith("bias")}
    return started | biases | {"skill_tokens": torch.randn(4, DIM, generator=rng)}


@pytest.fixture
def prototypes():
    return torch.randn(WAY, DIM, generator=torch.Generator().manual_seed(2))


def timms_block(router):
    """The block as timm and torch have it, with the same weights and power iterations."""
    block = Block(DIM, num_heads=4, mlp_ratio=2, qkv_bias=False, norm_layer=torch.nn.LayerNorm)
    weights = {name.removeprefix("block."): values for name, values in router.items() if name.startswith("block.")}
    block.load_state_dict({name: values for name, values in weights.items() if not is_state(name)})
    for name, part in block.named_modules():
        if isinstance(part, torch.nn.Linear):
            norm = spectral_norm(part).parametrizations.weight[0]
            norm._u.copy_(weights[f"{name}.u"])
            norm._v.copy_(weights[f"{name}.v"])
    return block


def test_training_steps_route_as_torch_and_timm_do(router, prototypes):
    block = timms_block(router).train()
    tokens = torch.cat([prototypes, router["skill_tokens"]])
    for _ in range(3):
        router = router | power_iterated(router)
        expected = block(tokens[None])[0]
        torch.testing.assert_close(route(router, prototypes, 1.0, "first").embedding, expected[0])
        torch.testing.assert_close(route(router, prototypes, 1.0, "mean").embedding, expected[:WAY].mean(0))
    torch.testing.assert_close(route(router, prototypes, 1.0).embedding, block.eval()(tokens[None])[0][:WAY].mean(0))


def test_the_gradient_is_that_of_torch_and_timm(router, prototypes):
    block = timms_block(router).eval()
    block(torch.cat([prototypes, router["skill_tokens"]])[None])[0, 0].square().sum().backward()
    name = "block.mlp.fc1.weight"
    router[name] = router[name].clone().requires_grad_()
    route(router, prototypes, 1.0, "first").embedding.square().sum().backward()
    torch.testing.assert_close(router[name].grad, block.mlp.fc1.parametrizations.weight.original.grad)


def test_the_order_of_classes_matters_to_the_first_and_not_to_the_mean(router, prototypes):
    turned = prototypes.flip(0)
    torch.testing.assert_close(
        route(router, prototypes, 0.5).weights, route(router, turned, 0.5).weights, rtol=1e-4, atol=1e-6
    )
    first, last = (route(router, order, 0.5, "first").weights for order in (prototypes, turned))
    assert (first - last).abs().max() > 1e-3


def test_weights_follow_from_logits_and_add_up_to_one(router, prototypes):
    routing = route(router, prototypes, 2.0)
    torch.testing.assert_close(routing.logits, router["expert_keys"] @ routing.embedding)
    s = torch.sigmoid(routing.logits / 2)
    torch.testing.assert_close(routing.weights, s / (s.sum() + 1e-8))
    assert routing.weights.sum().item() == pytest.approx(1, abs=1e-6)


def test_keys_and_skill_tokens_are_trained(router, prototypes):
    for name in ("expert_keys", "skill_tokens"):
        router[name].requires_grad_()
    route(router, prototypes, 1.0).weights[0].backward()
    assert router["expert_keys"].grad.any() and router["skill_tokens"].grad.any()


def test_samples_are_relaxed_bernoulli():
    logits = torch.full((4000,), 0.7)
    samples = relaxed_bernoulli(logits, 1.5, torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torchs = torch.distributions.RelaxedBernoulli(torch.tensor(1.5), logits=logits).sample()
    assert ks_2samp(samples.numpy(), torchs.numpy()).pvalue > 0.01


def test_the_generator_decides_the_sample(router, prototypes):
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    weights = [route(router, prototypes, 5.0, "mean", rng).weights for rng in generators]
    assert torch.equal(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_a_folded_router_answers_the_same_and_has_no_state(router, prototypes):
    plain = folded(router)
    assert not any(map(is_state, plain))
    torch.testing.assert_close(route(plain, prototypes, 1.0).logits, route(router, prototypes, 1.0).logits)
    assert folded(plain).keys() == plain.keys() and power_iterated(plain) == {}


def test_started_matrices_have_their_largest_singular_value_near_one(router):
    for name, values in folded(router).items():
        if name.startswith("block") and values.ndim == 2:
            assert torch.linalg.matrix_norm(values, 2).item() == pytest.approx(1, abs=0.05)


def test_the_seed_decides_the_start():
    first, again, other = (start_router(DIM, EXPERTS, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["expert_keys"], other["expert_keys"])
    assert first["skill_tokens"].std().item() == pytest.approx(1e-3, rel=0.2)


def test_the_temperature_falls_to_a_half():
    assert [temperature_after(tasks) for tasks in (0, 4000, 18_000, 10**6)] == [5, 4, 0.5, 0.5]
