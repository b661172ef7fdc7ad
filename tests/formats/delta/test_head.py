"""How narrow a head may be kept."""

import pytest
import torch
from torch import Tensor

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.formats.delta.head import HEAD_VALUES, HeadValues, head_as_stored, head_bytes, narrowest_head


def drift(head: Head, kind: HeadValues, features: Tensor) -> float:
    """How far rounding moves two logits of one image apart, at most."""
    change = head_as_stored(head, kind).logits(features) - head.logits(features)
    return max(float(row.max() - row.min()) for row in change)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0, 30.0, 100.0])
def test_a_head_is_as_narrow_as_moves_logits_by_a_twenty_fifth(scale):
    rng = torch.Generator().manual_seed(0)
    head = Head(torch.randn(3, 64, generator=rng), torch.zeros(3), unit_norm=False)
    features = scale * torch.randn(200, 64, generator=rng) + 20 * scale * head.weight[torch.arange(200) % 3]
    kind = narrowest_head(head, features)
    assert drift(head, kind, features) <= 0.04
    narrower = [other for other in HEAD_VALUES if head_bytes(head, other) < head_bytes(head, kind)]
    assert all(drift(head, other, features) > 0.04 for other in narrower)


def test_the_bound_is_met_and_used():
    """Among these heads are some that are kept as narrow as possible, and some that aren't."""
    rng = torch.Generator().manual_seed(0)
    head = Head(torch.randn(3, 64, generator=rng), torch.zeros(3), unit_norm=False)
    kinds = {narrowest_head(head, scale * head.weight) for scale in (0.01, 0.03, 0.1, 0.3, 1.0)}
    assert len(kinds) > 1
