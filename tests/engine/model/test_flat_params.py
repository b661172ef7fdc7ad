"""One vector of all parameters, whatever their shape and memory format."""

import torch

from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.model.flat_params import Layout
from fewshot_cli.engine.params import total_size


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


def test_a_flat_change_merges_as_a_delta(backbone):
    layout = Layout.of(backbone.params)
    change = torch.randn(layout.size, generator=torch.Generator().manual_seed(0))
    change[torch.rand(len(change), generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    untouched = layout.names[0]
    change[layout.slices[untouched]] = 0
    delta = layout.delta(change)
    assert untouched not in delta
    assert sum(part.nonzeros() for part in delta.values()) == int(change.count_nonzero())
    assert torch.equal(layout.flatten(merge(backbone.params, delta)), layout.flatten(backbone.params) + change)
