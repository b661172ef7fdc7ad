import math

import pytest
import torch

from fewshot_cli.engine.trust.metrics import best_sharpening
from fewshot_cli.engine.trust.sharpening import SPREAD, sharpening
from fewshot_cli.recipes import load_recipe

RNG = torch.Generator().manual_seed(0)


def answers(n, factor):
    """Logits that are right once multiplied by the factor, and labels drawn from these probabilities."""
    right = 2 * torch.randn(n, 5, generator=RNG)
    return right / factor, torch.multinomial(right.softmax(1), 1, generator=RNG).squeeze(1)


@pytest.mark.slow
def test_many_answers_outweigh_what_is_usual():
    logits, labels = answers(20_000, factor=3.0)
    assert sharpening(logits, labels, 20_000, usual=1.0) == pytest.approx(3.0, rel=0.05)


def test_few_answers_leave_it_near_what_is_usual():
    logits, labels = answers(10, factor=3.0)
    alone = best_sharpening(logits, labels)
    found = sharpening(logits, labels, 10, usual=1.0)
    assert abs(math.log(found)) < abs(math.log(alone))
    assert abs(math.log(found)) < 4 * SPREAD


def test_answers_about_one_image_count_as_one():
    logits, labels = answers(10, factor=3.0)
    repeated = sharpening(logits.repeat(50, 1), labels.repeat(50), 10, usual=1.0)
    assert repeated == pytest.approx(sharpening(logits, labels, 10, usual=1.0))
    assert sharpening(logits.repeat(50, 1), labels.repeat(50), 500, usual=1.0) != pytest.approx(repeated, rel=0.05)


def test_answers_no_better_than_chance_win_over_the_prior():
    logits, labels = 4 * torch.randn(200, 5, generator=RNG), torch.randint(5, (200,), generator=RNG)
    assert sharpening(logits, labels, 200, usual=1.0) < 0.2


def test_it_follows_the_scale_of_the_logits():
    logits, labels = answers(30, factor=1.0)
    found = sharpening(logits, labels, 30, usual=1.0)
    assert sharpening(10 * logits, labels, 30, usual=0.1) == pytest.approx(found / 10, rel=1e-6)


def test_without_a_usual_factor_it_is_the_temperature_of_the_answers_alone():
    logits, labels = answers(30, factor=1.0)
    assert sharpening(logits, labels, 30, usual=None) == best_sharpening(logits, labels)


def test_trained_biases_have_a_usual_factor_and_other_weights_none():
    biases = load_recipe("bitfit").learner
    usual = biases.usual_sharpening(25, 5, 1280)
    assert usual is not None and usual > 1
    half = load_recipe("bitfit", ("method.tuning.scale=5",)).learner
    assert half.usual_sharpening(25, 5, 1280) == pytest.approx(2 * usual)
    assert load_recipe("finetune").learner.usual_sharpening(25, 5, 1280) is None
