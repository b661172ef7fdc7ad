"""Heads against their definitions, and against the published cosine head."""

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.head.linear import Head, class_means, cosine_head, euclidean_head, typical_norm


def task(shots=(4, 1, 0, 3), dim=6, seed=0):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    return torch.randn(len(labels), dim, generator=rng), labels, torch.randn(9, dim, generator=rng)


def test_class_means_are_means_and_zeros_for_a_class_without_an_image():
    features, labels, _ = task()
    means = class_means(features, labels, way=4)
    for way in (0, 1, 3):
        torch.testing.assert_close(means[way], features[labels == way].mean(0))
    assert torch.equal(means[2], torch.zeros(6))


def test_euclidean_logits_rank_like_distance_to_the_class_mean():
    """The closed form against the definition, written as plainly as it can be."""
    features, labels, queries = task(shots=(4, 1, 2, 3))
    means = class_means(features, labels, way=4)
    logits = euclidean_head(means).logits(queries)
    for query, row in zip(queries, logits, strict=True):
        distances = torch.stack([sum((a - b) ** 2 for a, b in zip(query, mean, strict=True)) for mean in means])
        torch.testing.assert_close(row, query.square().sum() - distances)  # what is dropped is the same for all classes
        assert row.argsort(descending=True).tolist() == distances.argsort().tolist()


def test_cosine_logits_are_scale_times_the_cosine():
    features, labels, queries = task(shots=(4, 1, 2, 3))
    means = class_means(features, labels, way=4)
    expected = 3.5 * torch.cosine_similarity(queries[:, None], means[None], dim=2)
    torch.testing.assert_close(cosine_head(means, scale=3.5).logits(queries), expected)


def test_a_sharpened_head_has_as_many_times_larger_logits():
    features, labels, queries = task()
    head = euclidean_head(class_means(features, labels, way=4))
    torch.testing.assert_close(head.sharpened(2.5).logits(queries), 2.5 * head.logits(queries))
    assert head.to(torch.device("cpu")).unit_norm == head.unit_norm


@pytest.mark.parametrize("unit_norm", [False, True])
def test_stacked_heads_are_a_linear_layer_for_each_task(unit_norm):
    rng = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(2, 3, 4, 6, generator=rng), torch.randn(2, 3, 4, generator=rng)
    features = torch.randn(2, 3, 9, 6, generator=rng)
    logits = Head(weight, bias, unit_norm).logits(features)
    assert logits.shape == (2, 3, 9, 4)
    for task in [(0, 0), (1, 2)]:
        x = F.normalize(features[task], dim=1) if unit_norm else features[task]
        torch.testing.assert_close(logits[task], F.linear(x, weight[task], bias[task]))


def test_the_typical_norm_of_each_task_is_the_power_of_two_nearest_to_its_own():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(4, 5, 100, generator=rng) * torch.tensor([0.1, 1.0, 3.0, 50.0])[:, None, None]
    assert typical_norm(features).tolist() == [1.0, 8.0, 32.0, 512.0]  # of about 1, 10, 30 and 500
    assert [float(typical_norm(task)) for task in features] == [1.0, 8.0, 32.0, 512.0]


def test_cosine_head_gives_the_published_logits(golden):
    """P>M>F's head, scale * (cosine + bias), one feature row being zero; agreement 1e-6 of the largest logit."""
    vectors, config = golden("pmf")
    scale, bias = config["head"]["scale"], config["head"]["bias"]
    logits = cosine_head(vectors["head.prototypes"], scale).logits(vectors["head.features"]) + scale * bias
    torch.testing.assert_close(logits, vectors["head.logits"], rtol=0, atol=1e-5)
