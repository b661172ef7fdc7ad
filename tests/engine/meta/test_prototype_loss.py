"""Losses of meta-tuning against P>M>F's published steps (`pmf`), finite differences and naive loops."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.meta import prototype_loss as meta_losses
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.featured_task import FeaturedTask
from fewshot_cli.engine.meta.prototype_loss import (
    SCALE,
    Task,
    cosine_logits,
    descended,
    fomaml_logits,
    fomaml_loss,
    prototype_logits,
    prototype_loss,
    start,
    weights_of,
)
from fewshot_cli.engine.meta.settings import InnerLoop, Training
from fewshot_cli.engine.meta.task_source import TaskSource
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.methods.dense import FOMAML, DenseMetaTuning

AS_THEY_ARE = Preprocessing((16, 16), 1.0, "center", "bicubic", mean=(0.0,) * 3, std=(1 / 255,) * 3)


@pytest.fixture(scope="module")
def published(golden):
    return golden("pmf")


@pytest.fixture(scope="module")
def backbone(published) -> Backbone:
    vectors, config = published
    facts = {key: value for key, value in config["backbone"].items() if key not in ("timm_class", "eval_mode")}
    module = VisionTransformer(**facts)
    weights = {key.removeprefix("weights."): value for key, value in vectors.items() if key.startswith("weights.")}
    module.load_state_dict(weights)
    return Backbone("golden", module.eval().requires_grad_(False), AS_THEY_ARE, 24, weights, "Apache-2.0")


@pytest.fixture(scope="module")
def task(published) -> Task:
    vectors, _ = published
    return Task(*(vectors[key] for key in ("support_x", "support_y", "query_x", "query_y")), way=4)


@pytest.fixture(scope="module")
def exact(backbone, task) -> tuple[Backbone, Task]:
    """The same in float64, for finite differences."""
    images = {"support_images": task.support_images.double(), "query_images": task.query_images.double()}
    return replace(backbone, module=copy.deepcopy(backbone.module).double()), replace(task, **images)


def trainable(bank: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.detach().clone().requires_grad_() for name, values in bank.items()}


def gradients(loss: Tensor, bank: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(zip(bank, torch.autograd.grad(loss, list(bank.values())), strict=True))


def test_three_steps_are_the_published_ones(published, backbone, task):
    vectors, config = published
    facts = config["meta"]
    bank = trainable(start(backbone))
    optimiser = torch.optim.SGD(bank.values(), lr=facts["lr"], momentum=facts["momentum"])
    losses = []
    for _ in range(facts["steps"]):
        loss, _ = prototype_loss(bank, backbone, task)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses), vectors["meta.losses"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prototype_logits(bank, backbone, task), vectors["meta.logits"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bank[SCALE].detach(), vectors["meta.scale"][0], rtol=1e-5, atol=0)
    assert vectors["meta.bias"][0].abs() < 1e-6  # the published bias learns nothing: here is none


def test_the_bank_starts_as_the_frozen_backbone(published, backbone, task):
    vectors, _ = published
    bank = start(backbone)
    assert weights_of(bank).keys() == backbone.params.keys()
    torch.testing.assert_close(prototype_logits(bank, backbone, task), vectors["vanilla.logits"], rtol=0, atol=1e-5)


def test_a_head_is_scale_times_cosine(published):
    """The published head adds a bias to every cosine, the same for all classes."""
    vectors, config = published
    scale, bias = config["head"]["scale"], config["head"]["bias"]
    logits = cosine_logits({SCALE: torch.tensor(scale)}, vectors["head.features"], vectors["head.prototypes"])
    torch.testing.assert_close(logits + scale * bias, vectors["head.logits"], rtol=0, atol=1e-5)


def test_accuracy_is_the_share_of_right_answers(backbone, task):
    bank = start(backbone)
    answers = prototype_logits(bank, backbone, task).argmax(1)
    half = torch.arange(len(answers)) % 2 == 0
    labels = torch.where(half, answers, (answers + 1) % task.way)
    loss, accuracy = prototype_loss(bank, backbone, replace(task, query_labels=labels))
    assert accuracy == 0.5
    assert loss > 0


def test_a_bank_of_some_parameters_leaves_the_others_as_they_are(backbone, task):
    bank = start(backbone)
    some = {name: bank[name] for name in ("norm.weight", "norm.bias", SCALE)}
    torch.testing.assert_close(prototype_loss(some, backbone, task), prototype_loss(bank, backbone, task))
    loss, _ = prototype_loss(trained := trainable(some), backbone, task)
    assert gradients(loss, trained)["norm.weight"].any()


@pytest.mark.parametrize("name", ["cls_token", "blocks.0.attn.qkv.weight", "norm.bias", SCALE])
def test_the_gradient_is_that_of_finite_differences(exact, name):
    backbone, task = exact
    bank = trainable(start(backbone))
    gradient = gradients(prototype_loss(bank, backbone, task).loss, bank)[name]
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss_at(distance: float) -> float:
        with torch.no_grad():
            moved = bank | {name: bank[name] + distance * direction}
            return prototype_loss(moved, backbone, task).loss.item()

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("loss_of", [prototype_loss, lambda *args: fomaml_loss(*args[:3], InnerLoop(steps=2), args[3])])
def test_computing_in_chunks_changes_no_gradient(exact, loss_of):
    backbone, task = exact
    whole, chunked = trainable(start(backbone)), trainable(start(backbone))
    expected = gradients(loss_of(whole, backbone, task, None).loss, whole)
    actual = gradients(loss_of(chunked, backbone, task, 4).loss, chunked)
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-9, atol=1e-12)


def test_computing_in_chunks_keeps_less_for_the_gradient(backbone, task):
    def kept(chunk: int | None) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            prototype_loss(trainable(start(backbone)), backbone, task, chunk)
        return sum(sizes)

    assert kept(4) < 0.1 * kept(None)


@pytest.mark.parametrize("inner", [InnerLoop(steps=0), InnerLoop(steps=3, lr=0.0)])
def test_fomaml_without_a_step_is_the_prototype_loss(exact, inner):
    backbone, task = exact
    one, other = trainable(start(backbone)), trainable(start(backbone))
    expected, actual = prototype_loss(one, backbone, task), fomaml_loss(other, backbone, task, inner)
    torch.testing.assert_close(actual, expected)
    slopes = gradients(expected.loss, one)
    for name, slope in gradients(actual.loss, other).items():
        torch.testing.assert_close(slope, slopes[name], rtol=1e-9, atol=1e-12)


def test_fomaml_descends_as_a_plain_loop_does_and_hands_the_gradient_on(exact):
    """The definition: SGD on a copy, the gradient of the queries there, and that of the prototypes where they began."""
    backbone, task = exact
    inner = InnerLoop(steps=3, lr=0.01, head_lr=5.0)
    bank = trainable(start(backbone))

    model = copy.deepcopy(backbone.module).requires_grad_(True)
    means = torch.stack(
        [backbone.features(task.support_images)[task.support_labels == c].mean(0) for c in range(task.way)]
    )
    vectors = F.normalize(means, dim=1).requires_grad_()
    optimiser = torch.optim.SGD([{"params": model.parameters()}, {"params": [vectors], "lr": 0.05}], lr=0.01)

    def cosines(images: Tensor) -> Tensor:
        return F.cosine_similarity(model(images).unsqueeze(1), vectors.unsqueeze(0), dim=2)

    for _ in range(inner.steps):
        optimiser.zero_grad()
        F.cross_entropy(10 * cosines(task.support_images), task.support_labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    logits = 10 * cosines(task.query_images)
    loss = F.cross_entropy(logits, task.query_labels)
    loss.backward()

    torch.testing.assert_close(fomaml_logits(bank, backbone, task, inner), logits)
    features = backbone.features(task.support_images, weights_of(bank))
    prototypes = torch.stack([features[task.support_labels == c].mean(0) for c in range(task.way)])
    through_prototypes = (F.normalize(prototypes, dim=1) * vectors.grad).sum()
    slopes = gradients(fomaml_loss(bank, backbone, task, inner).loss, bank)
    weights = weights_of(bank)
    for (name, parameter), slope in zip(
        model.named_parameters(), torch.autograd.grad(through_prototypes, list(weights.values())), strict=True
    ):
        torch.testing.assert_close(slopes[name], parameter.grad + slope, rtol=1e-7, atol=1e-10)


def test_a_parameter_that_the_loss_does_not_use_stays_as_it_is():
    weights = {"used": torch.tensor([2.0]), "unused": torch.tensor([3.0])}
    moved, vectors = descended(lambda w, v: (w["used"] * v).sum(), weights, torch.tensor([5.0]), InnerLoop(lr=0.1))
    assert (moved["used"].item(), moved["unused"].item(), vectors.item()) == pytest.approx((1.5, 3.0, 4.8))


def test_fomaml_steps_help_on_the_images_they_were_made_on(exact):
    backbone, task = exact
    own = replace(task, query_images=task.support_images, query_labels=task.support_labels)
    inner = [InnerLoop(steps=0), *(InnerLoop(steps=n, lr=0.01) for n in (1, 4))]
    losses = [fomaml_loss(start(backbone), backbone, own, loop).loss.item() for loop in inner]
    assert losses[0] > losses[1] > losses[2]


def test_fomaml_can_be_tested_without_gradients(backbone, task):
    bank = start(backbone)
    expected = fomaml_loss(trainable(bank), backbone, task, InnerLoop(steps=2, lr=0.01)).loss.detach()
    with torch.no_grad():
        loss, accuracy = fomaml_loss(bank, backbone, task, InnerLoop(steps=2, lr=0.01))
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected)
    assert 0 <= accuracy <= 1


@pytest.mark.parametrize("way", [2, 3])
def test_any_number_of_classes_and_any_backbone_will_do(request, pictures, way):
    for family in ("vit", "conv"):
        backbone = request.getfixturevalue(family)
        images, labels = pictures((2,) * way, seed=3)
        normal = backbone.normalised(images)
        task = Task(normal, labels, normal[:3], labels[:3], way)
        bank = trainable(start(backbone))
        loss, _ = fomaml_loss(bank, backbone, task, InnerLoop())
        loss.backward()
        assert math.isfinite(loss.item())
        assert all(values.grad is not None for name, values in bank.items())
        assert not any(p.requires_grad or p.grad is not None for p in backbone.module.parameters())


@pytest.mark.parametrize("method", [DenseMetaTuning(), FOMAML(inner=InnerLoop(steps=1))], ids=["dense", "fomaml"])
def test_lower_precision_is_of_the_backbones_passes_only(method, vit, pictures, monkeypatch):
    """What comes after the features is computed in float32, under autocast too: to the bit what it is by hand."""
    images, labels = pictures((2, 2, 2), seed=3)
    domain = Domain.of_pictures("day", images, labels, vit)
    images, features = vit.normalised(images), domain.features
    task = FeaturedTask(images, labels, images, labels, 3, features, features)
    source = TaskSource(vit, (domain,), precision=torch.bfloat16)
    seen, given = [], meta_losses.class_means
    monkeypatch.setattr(meta_losses, "class_means", lambda f, *rest: seen.append(f.dtype) or given(f, *rest))
    trainer = method.trainer(method.start(vit, 0), source, Training(protocol=Fixed(way=3, shots=1, queries=1)))
    bank = trainer.descent.params
    found = trainer.how.step(bank)(task, 0, torch.Generator(), 1.0)
    assert seen and set(seen) == {torch.float32}
    assert all(values.grad is not None and values.grad.dtype == torch.float32 for values in bank.values())
    logits_of = fomaml_logits if method.name == "fomaml" else prototype_logits
    inner = [method.inner] if method.name == "fomaml" else []
    logits = logits_of(bank, source.passes, task, *inner)
    assert logits.dtype == torch.float32
    assert torch.equal(F.cross_entropy(logits, labels).detach(), found.total)
    exact = logits_of(bank, vit, task, *inner)
    assert 0 < (logits - exact).abs().max() < 0.3


def test_what_is_learned_of_the_cosine_is_not_in_the_bank(vit):
    """Its scale is of use in training only: nothing that begins from a bank reads it."""
    bank = DenseMetaTuning().start(vit, 0)
    assert bank.keys() == vit.params.keys() | {SCALE}
    assert DenseMetaTuning().saved_bank(bank, vit, 0).tensors == {}
