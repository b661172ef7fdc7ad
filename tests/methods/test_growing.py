"""The law of methods that can add classes: what was learned session by session is what all images at once teach."""

import pytest
import torch

from fewshot_cli.engine.head.sufficient_statistics import Moments
from fewshot_cli.methods import HEADS, class_named
from fewshot_cli.methods.base import GrowingMethod
from fewshot_cli.methods.gaussian import Gaussian
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.protonet import ProtoNet
from fewshot_cli.methods.ridge import Ridge

GROWING = {
    "gaussian": Gaussian(),
    "protonet-cosine": ProtoNet(distance="cosine"),
    "protonet-euclidean": ProtoNet(distance="euclidean"),
    "ridge": Ridge(),
    "ridge-set": Ridge(strength=0.01, scale=3.0),
    "lda-total": LDA(covariance="total"),
    "lda-within": LDA(covariance="within"),
    "lda-weak": LDA(ridge=0.05),
}
every_growing_method = pytest.mark.parametrize("name", GROWING)


def test_every_growing_method_is_held_to_the_law():
    growing = {head for head in (class_named(name, HEADS) for name in HEADS) if issubclass(head, GrowingMethod)}
    assert {type(method) for method in GROWING.values()} == growing


def task(shots, dim, centre=0.0, seed=0):
    """Features of spread about 1 around `centre`, labels and queries."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    centres = centre + torch.randn(len(shots), dim, generator=rng)
    features = centres[labels] + 0.7 * torch.randn(len(labels), dim, generator=rng)
    return features, labels, centre + torch.randn(40, dim, generator=rng)


def sessions(labels):
    """Two classes, then a third, then more images of old classes, then all the other classes and images."""
    first_few = torch.cat([(labels == c).nonzero().flatten()[:2] for c in labels.unique()])
    early = torch.zeros(len(labels), dtype=torch.bool).index_fill(0, first_few, True)
    old = labels < 3
    parts = [early & (labels < 2), early & (labels == 2), old & ~early]
    return [*parts, ~torch.stack(parts).any(0)]


def learned_in_sessions(features, labels):
    """The moments of the images, added in four sessions that bring new classes and more of the old."""
    moments, seen = Moments.none(features.shape[1]), 0
    for portion in sessions(labels):
        seen = max([seen, *(labels[portion] + 1).tolist()])
        moments = moments.add(features[portion], labels[portion], seen)
    return moments


@every_growing_method
@pytest.mark.parametrize("shots", [(5, 3, 2, 7, 4), (1, 1, 1, 1), (4, 2, 0, 3), (40, 30, 20, 10)])
@pytest.mark.parametrize("dim", [8, 30])
def test_learning_in_sessions_is_learning_at_once(name, shots, dim):
    features, labels, queries = task(shots, dim)
    grown = GROWING[name].grown_head(learned_in_sessions(features, labels))
    fitted = GROWING[name].head(features, labels, len(shots))
    assert grown.unit_norm == fitted.unit_norm
    actual, expected = grown.logits(queries), fitted.logits(queries)
    assert actual.dtype == torch.float32
    assert torch.equal(actual.argmax(1), expected.argmax(1))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-4)


@every_growing_method
@pytest.mark.parametrize("shots", [(5, 3, 2, 7, 4), (40, 30, 20, 10)])
@pytest.mark.parametrize("dim", [8, 30])
def test_features_far_from_zero_cost_no_accuracy(name, shots, dim):
    """A mean of 100 times the spread, against the fit in float64: what is lost is float32's rounding of the result."""
    features, labels, _ = task(shots, dim, centre=100.0)
    grown = GROWING[name].grown_head(learned_in_sessions(features, labels))
    fitted = GROWING[name].head(features.double(), labels, len(shots))
    assert (grown.weight - fitted.weight).abs().max() <= 1e-6 * fitted.weight.abs().max()
    assert (grown.bias - fitted.bias).abs().max() <= 1e-6 * fitted.bias.abs().max()


@every_growing_method
def test_every_session_has_the_head_of_the_images_so_far(name):
    features, labels, queries = task((5, 3, 2, 7), dim=12)
    moments = Moments.none(12)
    for c in range(4):
        moments = moments.add(features[labels == c], labels[labels == c], way=c + 1)
        grown = GROWING[name].grown_head(moments)
        fitted = GROWING[name].head(features[labels <= c], labels[labels <= c], c + 1)
        torch.testing.assert_close(grown.logits(queries), fitted.logits(queries), rtol=1e-4, atol=1e-4)
