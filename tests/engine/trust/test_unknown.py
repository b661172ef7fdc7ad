import numpy as np
import pytest
import torch

from fewshot_cli.engine.trust.images_needed import images_to_refuse, least_share
from fewshot_cli.engine.trust.unknown import grown, known_scores, refusal_threshold

LOGITS = torch.tensor([[3.0, 0.0, -1.0], [0.1, 0.0, -0.1], [0.0, 5.0, 5.0]])


def test_energy_is_large_where_any_logit_is():
    torch.testing.assert_close(known_scores(LOGITS, "energy"), LOGITS.exp().sum(1).log())


def test_the_class_of_negatives_is_left_out():
    torch.testing.assert_close(known_scores(LOGITS, "energy", unknown=1), LOGITS[:, [0, 2]].exp().sum(1).log())
    shares = LOGITS.softmax(1)
    torch.testing.assert_close(known_scores(LOGITS, "probability"), shares.max(1).values)
    torch.testing.assert_close(known_scores(LOGITS, "probability", unknown=1), shares[:, [0, 2]].max(1).values)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("n", [99, 100, 257])
def test_the_threshold_lies_between_the_scores_at_share_n_plus_1(share, n):
    scores = 1.0 + torch.randperm(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    assert refusal_threshold(scores, share) == pytest.approx(share * (n + 1))


def test_new_pictures_are_refused_as_often_as_was_said():
    rng = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(2000):
        scores = torch.randn(31, generator=rng)
        shares.append(float(scores[30] < refusal_threshold(scores[:30], 0.1)))
    assert np.mean(shares) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("share, images", [(0.05, 19), (0.1, 9), (0.5, 1), (0.3, 3), (0.01, 99)])
def test_too_few_images_to_tell(share, images):
    assert images_to_refuse(share) == images
    assert images_to_refuse(least_share(images)) <= images
    refusal_threshold(torch.arange(images).float(), share)
    if images > 1:
        with pytest.raises(ValueError, match=f"takes {images} held-out images, not {images - 1}"):
            refusal_threshold(torch.arange(images - 1).float(), share)


@pytest.mark.parametrize("scale", [lambda x: x, torch.sigmoid, lambda x: (3 * x).exp()])
def test_scores_of_heads_that_learned_more_are_refused_as_often_as_was_said(scale):
    rng = torch.Generator().manual_seed(0)
    held_out, new = torch.randn(4000, generator=rng), 0.4 + torch.randn(100_000, generator=rng)
    raised = grown(scale(held_out), 0.4)
    for share in (0.05, 0.1, 0.2):
        assert float((scale(new) < refusal_threshold(raised, share)).float().mean()) == pytest.approx(share, abs=0.02)
    assert float((scale(new) < refusal_threshold(scale(held_out), 0.2)).float().mean()) < 0.13


def test_raised_scores_stay_in_their_range_and_order():
    scores = torch.rand(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(grown(scores, 0.0), scores.sort().values)
    raised = grown(scores, 0.5)
    assert bool((raised.diff() >= 0).all()) and bool((raised >= scores.sort().values).all())
    assert float(raised.max()) == float(scores.max())
