"""SMAT's episode: the published numbers, and the fast version next to one that is written to be read."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load, save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.autograd import grad

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.defaults import TRAINING_BETA
from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.smat.expert_mixer import ExpertMixer
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import EVALUATION_BETA, gates, interpolate
from fewshot_cli.engine.meta.smat.loss import (
    DELTA,
    LOGITS,
    MULTIPLIERS,
    ROUTER,
    router_of,
    smat_loss,
    start_bank,
    trained,
    write_state_,
)
from fewshot_cli.engine.meta.smat.packed_gates import PackedGates, pruned
from fewshot_cli.engine.meta.smat.router import Routing, route
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.flat_params import Layout
from fewshot_cli.engine.params import Params

# The reference. Parameter by parameter, each forward pass where the description has one, all else left to autograd.
# Logits of gates are `(*shape, experts)`.


def reference_gates(logits: Tensor, beta: float) -> Tensor:
    return (1.2 * torch.sigmoid(logits / beta) - 0.1).clamp(0, 1)


def reference_merge(base: Params, delta: Params, z: Params, w: Tensor) -> Params:
    return {name: base[name] + (z[name] * w).sum(-1) * delta[name] for name in base}


@dataclass
class ReferenceNet:
    """The student's backbone with a cosine head, and the prototypes of its support set."""

    backbone: Backbone
    task: FeaturedTask

    def prototypes(self, theta: Params) -> Tensor:
        return class_means(
            self.backbone.features(self.task.support_images, theta), self.task.support_labels, self.task.way
        )

    def logits(self, theta: Params, head: Tensor, images: Tensor) -> Tensor:
        return 10 * F.normalize(self.backbone.features(images, theta)) @ F.normalize(head).T

    def gradients(self, theta: Params, head: Tensor, images: Tensor, labels: Tensor) -> tuple[Params, Tensor]:
        """Of the cross-entropy; first order, so they are constants to whatever comes after."""
        loss = F.cross_entropy(self.logits(theta, head, images), labels)
        *of_theta, of_head = grad(loss, [*theta.values(), head])
        return dict(zip(theta, of_theta, strict=True)), of_head


def reference_penalties(
    logits: Params, z: Params, multipliers: Tensor, routing: Routing, settings: SMATSettings
) -> dict[str, Tensor]:
    size = sum(gates[..., 0].numel() for gates in z.values())
    w, tau = routing.weights.detach(), settings.sparsity
    sparsity = sum((gates == 0).flatten(0, -2).sum(0) for gates in z.values()) / size
    l0 = sum(
        (1 - torch.sigmoid(-1.598597 - values).clamp(1e-6, 1 - 1e-6)).flatten(0, -2).sum(0)
        for values in logits.values()
    )
    with torch.no_grad():
        multipliers[sparsity > tau] = 0
    return {
        "lagrangian": ((sparsity - tau) * multipliers * w).sum(),
        "sparsity": ((tau - 1 + l0 / size) * multipliers.detach() * w).sum(),
        "l2": settings.l2 * routing.logits.square().mean(),
    }


def reference_episode(
    base: Params,
    delta: Params,
    logits: Params,
    multipliers: Tensor,
    router: Params,
    backbone: Backbone,
    task: FeaturedTask,
    settings: SMATSettings,
    temperature: float,
    rng: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The five parts of the loss of an episode. Resets multipliers in place, as the published code does."""
    net = ReferenceNet(backbone, task)
    with torch.no_grad():
        frozen = net.prototypes(base)
    routing = route(router, frozen, temperature, settings.pool, rng)
    z = {name: reference_gates(values, 2 / 3) for name, values in logits.items()}
    theta = reference_merge(base, delta, z, routing.weights)

    prototypes = net.prototypes(theta)
    head = prototypes.detach().requires_grad_()
    of_theta, of_head = net.gradients(theta, head, task.support_images, task.support_labels)
    theta = {name: values - settings.inner_lr * of_theta[name] for name, values in theta.items()}
    head = head.detach() - settings.inner_lr * of_head + prototypes - prototypes.detach()
    student = net.logits(theta, head, task.query_images)

    leaves = {name: values.detach().requires_grad_() for name, values in theta.items()}
    leaf = head.detach().requires_grad_()
    of_theta, of_head = net.gradients(leaves, leaf, task.query_images, task.query_labels)
    with torch.no_grad():
        leaves = {name: values - settings.teacher_lr * of_theta[name] for name, values in leaves.items()}
        taught = net.logits(leaves, leaf - settings.teacher_lr * of_head, task.query_images)
        pretrained = net.logits(base, net.prototypes(base), task.query_images)

    def distance(teacher: Tensor) -> Tensor:
        t = settings.kd_temperature
        p, q = (student / t).log_softmax(1), (teacher / t).log_softmax(1)
        if settings.kd_direction == "teacher_student":
            p, q = q, p
        return 0.5 * t**2 * (p.exp() * (p - q)).sum(1).mean()

    return {
        "query_ce": (1 - settings.kd) * F.cross_entropy(student, task.query_labels),
        "query_kd": settings.kd * (distance(taught) + distance(pretrained)),
        **reference_penalties(logits, z, multipliers, routing, settings),
    }


def reference_of_bank(
    bank: Params,
    net: FlatBackbone,
    task: FeaturedTask,
    settings: SMATSettings,
    temperature: float,
    rng: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The reference on a flat bank, which it is differentiable in."""
    return reference_episode(
        net.layout.views(net.base),
        net.layout.views(bank[DELTA]),
        {name: values.movedim(0, -1) for name, values in net.layout.views(bank[LOGITS]).items()},
        bank[MULTIPLIERS].clone(),
        router_of(bank),
        net.backbone,
        task,
        settings,
        temperature,
        rng,
    )


def gradients(bank: Params, total: Tensor) -> Params:
    leaves = {name: values for name, values in bank.items() if values.requires_grad}
    found = grad(total, list(leaves.values()), allow_unused=True)
    return {name: 0 * values if g is None else g for (name, values), g in zip(leaves.items(), found, strict=True)}


def leaves(bank: Params) -> Params:
    """The same bank, with gradients for what is trained."""
    return {name: values.detach().clone().requires_grad_(name in trained(bank)) for name, values in bank.items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


# The published numbers.

PUBLISHED_PARTS = {"sparsity": "sparsity_loss"}
"""Where a part has another name there."""


@dataclass
class Published:
    vectors: dict[str, Tensor]
    net: FlatBackbone
    bank: Params
    task: FeaturedTask
    settings: SMATSettings
    temperature: float

    def params(self, prefix: str) -> Params:
        return {name: self.vectors[f"{prefix}/{name}"] for name in self.net.layout.names}

    def stack(self, prefix: str) -> Tensor:
        """Values of `(*shape, experts)` as `(experts, size)`."""
        return torch.cat([values.flatten(0, -2) for values in self.params(prefix).values()]).T.contiguous()


@pytest.fixture(scope="module")
def published(golden) -> Published:
    vectors, config = golden("smat_tiny")
    module = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, num_classes=0
    )
    module.load_state_dict({name: vectors[f"backbone/{name}"] for name in module.state_dict()})
    look = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5,) * 3, (0.5,) * 3)
    backbone = Backbone("smat_tiny", module.eval().requires_grad_(False), look, 32, {}, "none")
    net = FlatBackbone.of(backbone)
    settings = SMATSettings(
        experts=config["experts"],
        sparsity=config["sparsity_target"],
        inner_lr=config["inner_lr"],
        teacher_lr=config["teacher_lr"],
        kd=config["kd_lambda"],
        kd_temperature=config["kd_T"],
        pool="first",
        binary=False,
        evaluation_beta=EVALUATION_BETA,
    )
    support, query = vectors["episode/support_images"], vectors["episode/query_images"]
    task = FeaturedTask(
        support,
        vectors["episode/support_labels"],
        query,
        vectors["episode/query_labels"],
        4,
        backbone.features(support),
        backbone.features(query),
    )
    found = Published(vectors, net, {}, task, settings, config["temperature"])
    router = {name.replace("router/", ROUTER): values for name, values in vectors.items() if name.startswith("router/")}
    found.bank = router | {
        DELTA: net.layout.flatten(found.params("delta")),
        LOGITS: found.stack("log_alpha"),
        MULTIPLIERS: vectors["train/lagrange_multipliers"],
    }
    return found


@pytest.mark.parametrize(("mode", "beta"), [("eval", EVALUATION_BETA), ("train", TRAINING_BETA)])
def test_routing_and_merged_weights_are_the_published_ones(published, mode, beta):
    task, net, bank = published.task, published.net, published.bank
    expected = {name.partition("/")[2]: v for name, v in published.vectors.items() if name.startswith(f"{mode}/")}

    routing = route(router_of(bank), task.frozen_prototypes, published.temperature, "first")
    assert relative_error(routing.embedding, expected["task_embedding"]) < 1e-5
    assert relative_error(routing.logits, expected["router_logits"]) < 1e-5
    assert relative_error(routing.weights, expected["expert_weights"]) < 1e-5

    packed = PackedGates.of(bank[LOGITS], beta)
    mixture = net.layout.flatten(published.params(f"{mode}/merged_mask"))
    weights = net.layout.flatten(published.params(f"{mode}/merged_weight"))
    z = {name: reference_gates(values, beta) for name, values in published.params("log_alpha").items()}
    plain = reference_merge(net.layout.views(net.base), published.params("delta"), z, routing.weights)
    assert relative_error(packed.mixed(routing.weights), mixture) < 1e-5
    for found in (
        interpolate(net.base, bank[DELTA], bank[LOGITS], routing.weights, beta).weights,
        packed.merged(net.base, bank[DELTA], routing.weights),
        net.layout.flatten(plain),
    ):
        assert relative_error(found - net.base, weights - net.base) < 1e-5
        prototypes = class_means(net.features(task.support_images, found), task.support_labels, task.way)
        features = net.features(task.query_images, found)
        assert relative_error(prototypes, expected["prototypes"]) < 1e-5
        assert relative_error(features, expected["query_features"]) < 1e-5
        logits = cosine_head(prototypes).logits(features)
        assert relative_error(logits, expected["query_logits_no_inner_step"]) < 1e-5


@pytest.mark.parametrize("version", ["reference", "fast"])
def test_losses_and_gradients_are_the_published_ones(published, version):
    bank, net = leaves(published.bank), published.net
    arguments = (bank, net, published.task, published.settings, published.temperature)
    if version == "fast":
        loss = smat_loss(*arguments)
        parts, total = loss.parts, loss.total
    else:
        parts = reference_of_bank(*arguments)
        total = sum(parts.values())
    for name, value in parts.items():
        expected = published.vectors[f"train/loss/{PUBLISHED_PARTS.get(name, name)}"].item()
        # float32 rounds log-probabilities to 1e-7, and the published distance of 2e-3 is 2e-8 from the exact one
        assert value.item() == pytest.approx(expected, rel=1e-5, abs=5e-8 if name == "query_kd" else 0), name
    found = gradients(bank, total)
    assert relative_error(found[DELTA], net.layout.flatten(published.params("train/grad_delta"))) < 1e-4
    assert relative_error(found[LOGITS], published.stack("train/grad_log_alpha")) < 1e-4
    assert relative_error(found[MULTIPLIERS], published.vectors["train/grad_lagrange_multipliers"]) < 1e-4


# The fast version next to the reference, in float64.


@pytest.fixture(scope="module")
def net(backbone) -> FlatBackbone:
    return FlatBackbone.of(replace(backbone, module=copy.deepcopy(backbone.module).double()))


@pytest.fixture(scope="module")
def task(net, pictures) -> FeaturedTask:
    (support, support_labels), (query, query_labels) = pictures((3, 2, 2), seed=1), pictures((1, 2, 2), seed=2)
    support, query = (net.backbone.normalised(images).double() for images in (support, query))
    support_features, query_features = net.backbone.features(support), net.backbone.features(query)
    return FeaturedTask(support, support_labels, query, query_labels, 3, support_features, query_features)


def moved_bank(net: FlatBackbone, settings: SMATSettings) -> Params:
    """A bank in the midst of meta-tuning: a delta, experts of which one is sparse enough, multipliers."""
    rng = torch.Generator().manual_seed(5)
    bank = {name: values.double() for name, values in start_bank(net, settings, seed=0).items()}
    typical = net.base.abs().mean()
    bank[DELTA] = 0.3 * typical * torch.randn(net.layout.size, generator=rng, dtype=torch.float64)
    bank[LOGITS] = (bank[LOGITS] * 3).clamp(-4.6, 4.6)
    bank[LOGITS][0] -= 6
    bank[LOGITS].clamp_(-4.6, 4.6)
    bank[MULTIPLIERS] = torch.rand(settings.experts, generator=rng, dtype=torch.float64)
    return bank


VARIANTS = {
    "default": SMATSettings(experts=4),
    "first": SMATSettings(experts=4, pool="first", inner_lr=0.1, teacher_lr=0.2),
    "teacher-student": SMATSettings(experts=4, kd_direction="teacher_student", kd=0.6, kd_temperature=3, l2=0.1),
    "without-teachers": SMATSettings(experts=2, kd=0, sparsity=0.1),
    "teachers-only": SMATSettings(experts=2, kd=1, sparsity=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_the_fast_version_is_the_reference(net, task, settings):
    bank = moved_bank(net, settings)
    fast, plain = leaves(bank), leaves(bank)
    loss = smat_loss(fast, net, task, settings, 2.0, torch.Generator().manual_seed(3))
    parts = reference_of_bank(
        plain | loss.state | {MULTIPLIERS: plain[MULTIPLIERS]},
        net,
        task,
        settings,
        2.0,
        torch.Generator().manual_seed(3),
    )
    assert loss.parts.keys() == parts.keys()
    for name in parts:
        assert loss.parts[name].item() == pytest.approx(parts[name].item(), rel=1e-6, abs=1e-12), name
    assert loss.total.item() == pytest.approx(sum(loss.parts.values()).item())
    found, expected = gradients(fast, loss.total), gradients(plain, sum(parts.values()))
    assert found.keys() == expected.keys()
    for name in found:
        assert relative_error(found[name], expected[name]) < 1e-6, name
        assert found[name].any() or settings.l2 == 0, name


# What meta-tuning is built on.


def test_a_started_bank_changes_nothing_and_only_routing_has_a_gradient_at_the_gates(net, task):
    settings = SMATSettings(experts=3)
    bank = leaves({name: values.double() for name, values in start_bank(net, settings, seed=0).items()})
    loss = smat_loss(bank, net, task, settings, 5.0)
    found = gradients(bank, loss.total)
    assert not found[LOGITS].any()
    assert found[DELTA].any()
    assert (found[MULTIPLIERS] < 0).all()  # descent makes them grow: the experts are too dense
    weights = ExpertMixer.of(bank, settings).merged(net.base, task.frozen_prototypes, 5.0)
    assert torch.equal(weights, net.base)


def test_the_loss_changes_nothing_but_tells_the_new_state(net, task):
    settings = SMATSettings(experts=4)
    bank = leaves(moved_bank(net, settings))
    before = {name: values.detach().clone() for name, values in bank.items()}
    loss = smat_loss(bank, net, task, settings, 1.0)
    assert all(torch.equal(bank[name], values) for name, values in before.items())
    assert loss.state.keys() == (bank.keys() - trained(bank).keys()) | {MULTIPLIERS}
    assert (loss.state[MULTIPLIERS] == 0).tolist() == (loss.sparsity > 0.9).tolist() == [True, False, False, False]
    write_state_(bank, loss.state)
    loss.total.backward()  # which the writing doesn't disturb
    assert all(torch.equal(bank[name], values) for name, values in loss.state.items())
    assert all(values.requires_grad == (name in trained(bank)) for name, values in bank.items())


@pytest.mark.slow
def test_a_step_down_the_gradient_lowers_the_loss(net, task):
    settings = SMATSettings(experts=4)
    bank = leaves(moved_bank(net, settings))
    loss = smat_loss(bank, net, task, settings, 1.0)
    with torch.no_grad():
        lower = bank | {DELTA: bank[DELTA] - 1e-3 * gradients(bank, loss.total)[DELTA]}
    assert smat_loss(lower, net, task, settings, 1.0).total < loss.total
    assert 0 <= loss.accuracy <= 1


def test_an_exported_mixer_gives_the_live_logits(net, task):
    settings = SMATSettings(experts=4, binary=False)
    bank = moved_bank(net, settings)
    prototypes = task.frozen_prototypes
    live = route(router_of(bank), prototypes, 0.5, settings.pool)
    weights = interpolate(net.base, bank[DELTA], bank[LOGITS], live.weights, settings.evaluation_beta).weights
    mixer = ExpertMixer.of(bank, settings)
    torch.testing.assert_close(mixer.merged(net.base, prototypes, 0.5), weights)
    delta = net.layout.delta(mixer.change(prototypes, 0.5))
    expected = net.features(task.query_images, weights)
    found = net.backbone.features(task.query_images, merge(net.backbone.params, delta))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    change = pruned(mixer.change(prototypes, 0.5), density=0.05)
    assert int(change.count_nonzero()) == -(-net.layout.size * 5 // 100)


def test_a_saved_bank_routes_the_same(net, task):
    settings = SMATSettings(experts=3)
    bank = moved_bank(net, settings)
    again = load(save({name: values.contiguous() for name, values in bank.items()}))
    first, second = (route(router_of(one), task.frozen_prototypes, 0.5, settings.pool) for one in (bank, again))
    assert torch.equal(first.weights, second.weights)


def test_the_layout_of_a_task_is_that_of_the_backbone(net):
    assert net.layout == Layout.of(net.backbone.params)


def test_a_binary_mixer_has_every_gate_at_the_nearer_end(net, task):
    settings = SMATSettings(experts=4)
    bank = moved_bank(net, settings)
    mixer, weights = ExpertMixer.of(bank, settings), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    nearer = (gates(bank[LOGITS]) >= 0.5).to(weights.dtype)
    assert 0 < nearer.mean() < 1
    torch.testing.assert_close(mixer.gates.mixed(weights), weights @ nearer)
    assert mixer.gates.bytes == net.layout.size  # one a weight
