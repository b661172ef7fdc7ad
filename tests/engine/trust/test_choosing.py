"""Which of several heads is taken: the first, unless images left out say clearly that another is better."""

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.trust.choosing import chosen, sharpest_likelihoods

LABELS = torch.arange(3).repeat_interleave(10)


def answers(wrong: int, scale: float = 4.0) -> torch.Tensor:
    """Logits that are right about all images but the first few."""
    said = LABELS.clone()
    said[:wrong] = (said[:wrong] + 1) % 3
    return scale * F.one_hot(said, 3).float()


def test_likelihoods_are_of_the_sharpest_honest_probabilities():
    found = sharpest_likelihoods(answers(3), LABELS)
    assert found.shape == (30,)
    assert found[3:].exp().mean() == pytest.approx(0.9, abs=0.03)  # as sure as it is right
    torch.testing.assert_close(found, sharpest_likelihoods(answers(3, scale=0.1), LABELS), atol=0.02, rtol=0)


@pytest.mark.parametrize(("wrong", "place"), [([5, 5, 5], 0), ([5, 5, 6], 0), ([12, 11, 1], 2), ([1, 12, 12], 0)])
def test_the_first_is_taken_unless_another_is_clearly_better(wrong, place):
    assert chosen([answers(number) for number in wrong], LABELS) == place


def test_one_image_says_nothing():
    assert chosen([torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])], torch.tensor([0])) == 0
