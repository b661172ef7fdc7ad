"""One vector of all parameters, whatever their shape and memory format."""

import pytest
import torch

from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.model.flat_params import FlatBackbone, Layout
from fewshot_cli.engine.params import total_size


@pytest.fixture(scope="module")
def images(pictures, backbone):
    return backbone.normalised(pictures((1, 1, 1), seed=3)[0])


def test_there_and_back_is_the_same(backbone):
    layout = Layout.of(backbone.params)
    flat = layout.flatten(backbone.params)
    assert flat.shape == (layout.size,) == (total_size(backbone.params),)
    views = layout.views(flat)
    assert list(views) == list(backbone.params)
    for name, values in backbone.params.items():
        assert torch.equal(views[name], values)
        assert torch.equal(flat[layout.slices[name]], values.flatten())


def test_views_are_no_copies(backbone):
    layout = Layout.of(backbone.params)
    flat = layout.flatten(backbone.params)
    for name, view in layout.views(flat).items():
        assert view.data_ptr() == flat[layout.slices[name]].data_ptr()


def test_a_stack_is_viewed_parameter_by_parameter():
    layout = Layout.of({"a": torch.zeros(2, 3), "b": torch.zeros(()), "c": torch.zeros(0, 2)})
    stack = torch.arange(14.0).view(2, 7)
    views = layout.views(stack)
    assert {name: tuple(view.shape) for name, view in views.items()} == {"a": (2, 2, 3), "b": (2,), "c": (2, 0, 2)}
    assert views["a"][1, 1, 2] == stack[1, 5]
    assert views["b"].tolist() == [6, 13]


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


def test_a_flat_change_merges_as_a_delta(backbone):
    net = FlatBackbone.of(backbone)
    change = torch.randn(net.layout.size, generator=torch.Generator().manual_seed(0))
    change[torch.rand(len(change), generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    untouched = net.layout.names[0]
    change[net.layout.slices[untouched]] = 0
    delta = net.layout.delta(change)
    assert untouched not in delta
    assert sum(part.nonzeros() for part in delta.values()) == int(change.count_nonzero())
    assert torch.equal(net.layout.flatten(merge(backbone.params, delta)), net.base + change)
