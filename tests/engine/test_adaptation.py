"""The support set as a value."""

import torch

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.params import total_size


def drawn(n: int = 8, dim: int = 5) -> Support:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 4, 4), generator=rng).byte()
    labels = torch.randint(0, 3, (n,), generator=rng)
    return Support(images, labels, torch.rand(n, dim, generator=rng), way=3)


def contents(support: Support) -> list[torch.Tensor]:
    return [support.images[torch.arange(len(support))], support.labels, support.features]


def shuffled(support: Support, seed: int) -> Support:
    return support.subset(torch.randperm(len(support), generator=torch.Generator().manual_seed(seed)))


def test_a_subset_has_the_chosen_images_with_their_labels_and_features():
    support = drawn()
    chosen = torch.tensor([6, 1, 3])
    subset = support.subset(chosen)
    assert len(subset) == 3
    assert subset.way == 3
    assert all(map(torch.equal, contents(subset), [part[chosen] for part in contents(support)]))
    nested = subset.subset(torch.tensor([2]))
    assert torch.equal(nested.images[torch.tensor([0])], support.images[3:4])


def test_in_order_is_one_order_whatever_the_order_given():
    first = contents(drawn().in_order())
    assert torch.equal(first[1], first[1].sort().values)
    for seed in range(5):
        assert all(map(torch.equal, first, contents(shuffled(drawn(), seed).in_order())))


def test_in_order_tells_images_apart_that_share_a_feature():
    """After a ReLU a feature is zero for many images; after a layer norm all rows have the same sum."""
    support = drawn()
    features = support.features.clone()
    features[:, 0] = 0
    features[:, 1:] -= features[:, 1:].mean(1, keepdim=True)
    alike = Support(support.images, support.labels, features, way=3)
    for seed in range(5):
        assert all(map(torch.equal, contents(alike.in_order()), contents(shuffled(alike, seed).in_order())))


def test_total_size_counts_values():
    assert total_size({"a": torch.zeros(2, 3), "b": torch.zeros(())}) == 7
    assert total_size({}) == 0
