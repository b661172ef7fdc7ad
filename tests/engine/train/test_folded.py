"""Folded batch norms against the plain backbone: the same features and gradients, or else the plain backbone itself."""

import pytest
import torch
from torch import nn

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.engine.train import fine_tune
from fewshot_cli.engine.train.folded import folded
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.targets import targeted


def network(random_weights, name: str, size: int) -> Backbone:
    """A network of random weights whose norms have statistics, scales and biases of their own."""
    weights = random_weights(name)
    rng = torch.Generator().manual_seed(1)
    for key, values in weights.items():
        if key.endswith("running_var"):
            weights[key] = 0.5 + torch.rand(values.shape, generator=rng)
        elif key.endswith(("running_mean", "bias")) and values.ndim == 1:
            weights[key] = 0.3 * torch.randn(values.shape, generator=rng)
    return build_backbone(name, weights, image_size=size)


def features_and_gradients(backbone: Backbone, biases: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    leaves = {name: (values + 0.1 * torch.randn(values.shape, generator=rng)) for name, values in biases.items()}
    leaves = {name: values.requires_grad_() for name, values in leaves.items()}
    images = torch.randn(3, 3, *backbone.preprocessing.size, generator=rng)
    features = backbone.features(images, leaves)
    features.square().sum().backward()
    return [features.detach(), *(values.grad for values in leaves.values())]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("tf_efficientnet_lite0", 64),  # pads one side more than the other, and cuts off at 0 and 6
        ("tf_efficientnet_lite0", 67),
        ("resnet18", 64),  # activations lie outside of the norms
        ("test_efficientnet", 64),  # activations cut nothing off
    ],
)
@pytest.mark.parametrize("has_mkldnn", [True, False])
def test_features_and_gradients_are_those_of_the_plain_backbone(random_weights, name, size, has_mkldnn, monkeypatch):
    if not has_mkldnn:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = network(random_weights, name, size)
    biases = targeted(plain, "bias$")
    quick = folded(plain, biases)
    assert quick is not plain
    assert not any(isinstance(part, nn.BatchNorm2d) for part in quick.module.modules())
    for found, wanted in zip(features_and_gradients(quick, biases), features_and_gradients(plain, biases), strict=True):
        assert (found - wanted).norm() <= 1e-3 * wanted.norm()


def test_weights_that_a_bank_has_moved_are_those_folded(conv):
    name = next(name for name, values in conv.params.items() if values.ndim == 4)
    moved = conv.moved({name: 1.5 * conv.params[name]})
    biases = targeted(moved, "bias$")
    quick = folded(moved, biases)
    assert quick is not moved
    found, wanted = features_and_gradients(quick, biases)[0], features_and_gradients(moved, biases)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, features_and_gradients(conv, biases)[0], rtol=1e-2)


@pytest.mark.parametrize("targets", [".", "(norm|bn).*"])
def test_a_backbone_whose_weights_are_trained_stays_as_it_is(conv, targets):
    assert folded(conv, targeted(conv, targets)) is conv


def test_a_backbone_without_batch_norms_or_with_hooks_stays_as_it_is(vit, random_weights):
    assert folded(vit, targeted(vit, "bias$")) is vit
    hooked = network(random_weights, "test_efficientnet", 64)
    hooked.module.conv_stem.register_forward_hook(lambda part, inputs, outputs: 2 * outputs)
    assert folded(hooked, targeted(hooked, "bias$")) is hooked


def test_outputs_of_a_convolution_that_are_used_twice_are_noticed(random_weights):
    class Twice(nn.Module):
        def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
            super().__init__()
            self.conv, self.norm = conv, norm

        def forward(self, images):
            seen = self.conv(images)
            return (self.norm(seen) + seen).mean((2, 3))

    plain = network(random_weights, "resnet18", 64)
    norm = plain.module.bn1
    twice = Backbone("twice", Twice(plain.module.conv1, norm).eval(), plain.preprocessing, 64, {}, "")
    assert folded(twice, {"norm.bias": norm.bias.detach()}) is twice


def test_training_on_the_folded_backbone_ends_where_plain_training_ends(conv, easy, monkeypatch):
    method = Finetune(targets="bias$", tuning=Tuning(optim=Optim(lr=1e-3, steps=5)))
    support = easy(conv)
    quick = method.move(conv, support, Run())
    monkeypatch.setattr(fine_tune, "folded", lambda backbone, weights: backbone)
    plain = method.move(conv, support, Run())
    assert quick.head is not None
    assert plain.head is not None
    features = support.features
    torch.testing.assert_close(quick.head.logits(features), plain.head.logits(features), rtol=1e-3, atol=1e-3)
    moved = torch.cat([(quick.delta[name].values - plain.delta[name].values) for name in plain.delta])
    assert moved.norm() <= 0.05 * torch.cat([plain.delta[name].values for name in plain.delta]).norm()
