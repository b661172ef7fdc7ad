"""Which of several heads is taken: the first, unless images left out say clearly that another is better."""

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from fewshot_cli.engine.trust.choosing import by_chance, chosen

LABELS = torch.arange(3).repeat_interleave(10)


def answers(wrong: int, scale: float = 4.0) -> torch.Tensor:
    """Logits that are right about all images but the first few."""
    said = LABELS.clone()
    said[:wrong] = (said[:wrong] + 1) % 3
    return scale * F.one_hot(said, 3).float()


@pytest.mark.parametrize(("wrong", "place"), [([5, 5, 5], 0), ([5, 5, 6], 0), ([12, 11, 1], 2), ([1, 12, 12], 0)])
def test_the_first_is_taken_unless_another_is_clearly_better(wrong, place):
    assert chosen([answers(number) for number in wrong], LABELS) == place


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (3, 0), (0, 3), (9, 2), (40, 21)])
def test_the_chance_is_that_of_the_sign_test(wins, losses):
    expected = binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
    assert by_chance(wins, losses) == pytest.approx(expected)


def test_being_surer_is_no_reason():
    assert chosen([answers(5, scale=0.1), answers(5, scale=9.0)], LABELS) == 0


def test_the_usual_one_need_not_be_the_first():
    assert chosen([answers(5), answers(4), answers(5)], LABELS, usual=2) == 2
    assert chosen([answers(1), answers(4), answers(12)], LABELS, usual=2) == 0


def test_images_that_one_alone_answers_right_count_and_others_do_not():
    """Ten images more are enough, where none is lost for them; of twenty, five lost ones are too many."""
    assert chosen([answers(10), answers(0)], LABELS) == 1
    assert chosen([answers(9), answers(0)], LABELS) == 0
    lost = answers(0)
    lost[-5:] = lost[-5:].roll(1, 1)
    assert chosen([answers(15), lost], LABELS) == 0


def test_one_image_says_nothing():
    assert chosen([torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])], torch.tensor([0])) == 0
