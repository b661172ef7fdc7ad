"""Sums over images against the images themselves, and against the published running covariance."""

import pytest
import torch

from fewshot_cli.engine.head.linear import class_means, typical_norm
from fewshot_cli.engine.head.sufficient_statistics import Moments

SHOTS = (4, 1, 0, 7)


def task(dim=6, centre=0.0, seed=0):
    """Features `(12, dim)` of spread 1 around `centre`, and labels in no order."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(SHOTS)), torch.tensor(SHOTS))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    return centre + torch.randn(len(labels), dim, generator=rng), labels


def scatter(deviations):
    return sum(torch.outer(d, d) for d in deviations.double())


@pytest.mark.parametrize("centre", [0.0, 100.0])
def test_moments_say_of_the_images_what_the_images_say(centre):
    """With a mean 100 times the spread, too: float64 loses four digits of sixteen to the difference."""
    features, labels = task(centre=centre)
    moments = Moments.none(6).add(features, labels, way=4)
    f = features.double()
    means = class_means(f, labels, way=4)
    close = {"rtol": 1e-9, "atol": 1e-9}
    assert moments.n == 12
    assert moments.counts.tolist() == list(SHOTS)
    torch.testing.assert_close(moments.mean, f.mean(0), **close)
    torch.testing.assert_close(moments.class_means, means, **close)
    torch.testing.assert_close(moments.scatter, scatter(f - f.mean(0)), **close)
    torch.testing.assert_close(moments.scatter_within, scatter(f - means[labels]), **close)
    deviations = torch.stack([(f[labels == c] - f.mean(0)).sum(0) for c in range(4)])
    torch.testing.assert_close(moments.class_deviations, deviations, **close)
    assert moments.typical_norm == typical_norm(features)


def test_a_class_without_an_image_has_a_prototype_of_zeros():
    features, labels = task()
    assert torch.equal(Moments.none(6).add(features, labels, way=4).class_means[2], torch.zeros(6).double())


@pytest.mark.parametrize("seed", range(5))
def test_order_and_portions_change_nothing_but_rounding(seed):
    features, labels = task(centre=3.0)
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=rng)
    cuts = torch.randint(0, len(labels), (3,), generator=rng).sort().values  # some portions may be empty
    moments, way = Moments.none(6), 1
    for portion in order.tensor_split(cuts):
        way = max([way, *(labels[portion] + 1).tolist()])
        moments = moments.add(features[portion], labels[portion], way)
    whole = Moments.none(6).add(features, labels, way=4)
    for part in ("counts", "sums", "second"):
        torch.testing.assert_close(getattr(moments, part), getattr(whole, part), rtol=1e-12, atol=1e-12)


def test_adding_leaves_the_moments_before_as_they_were():
    features, labels = task()
    before = Moments.none(6).add(features, labels, way=4)
    counts, sums, second = before.counts.clone(), before.sums.clone(), before.second.clone()
    after = before.add(features, labels, way=9)
    assert (after.counts.shape, after.sums.shape) == ((9,), (9, 6))
    assert torch.equal(before.counts, counts)
    assert torch.equal(before.sums, sums)
    assert torch.equal(before.second, second)


def test_classes_can_not_be_taken_away():
    features, labels = task()
    with pytest.raises(ValueError, match="3 classes can't hold the 4"):
        Moments.none(6).add(features, labels, way=4).add(features[:0], labels[:0], way=3)


def test_the_covariance_after_each_session_is_the_published_one(golden):
    """FSA's running covariance (arXiv:2303.13199), to 1e-6 of its largest value."""
    vectors, _ = golden("fsa_fit")
    features, labels = vectors["fsa.many.features"], vectors["fsa.many.labels"]
    moments, start = Moments.none(features.shape[1]), 0
    ends = vectors["fsa.running.session_ends"].tolist()
    assert len(ends) == 3
    for end, expected in zip(ends, vectors["fsa.running.cov_after_session"], strict=True):
        moments = moments.add(features[start:end], labels[start:end], way=4)
        covariance = moments.scatter / (moments.n - 1)
        assert (covariance - expected).abs().max() <= 1e-6 * expected.abs().max()
        start = end
    assert moments.n == end
