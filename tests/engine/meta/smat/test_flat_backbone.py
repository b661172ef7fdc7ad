"""Passes under one vector of all weights, and their gradient."""

import pytest
import torch

from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone


@pytest.fixture(scope="module")
def images(pictures, backbone):
    return backbone.normalised(pictures((1, 1, 1), seed=3)[0])


def test_features_under_a_flat_vector_are_the_backbones(backbone, images):
    net = FlatBackbone.of(backbone)
    torch.testing.assert_close(net.features(images, net.base), backbone.features(images))


def test_lower_precision_is_of_the_passes_only(vit, pictures):
    images = vit.normalised(pictures((1, 1, 1), seed=3)[0])
    net = FlatBackbone.of(vit, torch.bfloat16)
    flat = net.base.clone().requires_grad_()
    found, exact = net.features(images, flat), vit.features(images)
    assert found.dtype == torch.float32
    assert 0 < (found - exact).norm() / exact.norm() < 0.05
    found.sum().backward()
    assert flat.grad.dtype == torch.float32


def test_the_gradient_is_that_of_all_parameters(backbone, images):
    net = FlatBackbone.of(backbone)
    flat = net.base.clone().requires_grad_()
    net.features(images, flat).square().sum().backward()
    params = {name: values.clone().requires_grad_() for name, values in backbone.params.items()}
    backbone.features(images, params).square().sum().backward()
    gradients = {name: values.grad if values.grad is not None else 0 * values for name, values in params.items()}
    torch.testing.assert_close(flat.grad, net.layout.flatten(gradients), rtol=1e-4, atol=1e-4)
