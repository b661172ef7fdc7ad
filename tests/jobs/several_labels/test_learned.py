"""What is expected of images with several labels: the share of images left out, corrected for what they miss."""

import math

import pytest
import torch

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.trust.expected import SLOPE, Measured, expected, typical_slope
from fewshot_cli.jobs.several_labels.learned import LearnedMarks

FOLDERS = [[1, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 0], [0, 0, 1]]


def learned(of_each: int, wrong: int) -> LearnedMarks:
    """So many images of each folder, of which the first are answered wrong where they were left out."""
    marks = torch.tensor(FOLDERS).repeat(of_each, 1)
    answers = marks.bool()
    answers[:wrong] = ~answers[:wrong]
    return LearnedMarks(Head(torch.zeros(3, 2), torch.zeros(3), unit_norm=False), torch.full((3,), 0.5), marks, answers)


def test_the_promise_is_that_of_single_labels_for_images_of_as_many():
    found = learned(4, 6).expected
    full = (math.log(12) + 2 * (math.log(12) + math.log(8)) / 2 + 2 * math.log(8)) / 5
    less = (math.log(11) + 2 * (math.log(11) + math.log(7)) / 2 + 2 * math.log(7)) / 5
    promise = expected(Measured(14 / 20, 20, less, full), typical_slope(SLOPE), full)
    assert (found.mean, found.low, found.high) == pytest.approx((promise.mean, promise.low, promise.high))


@pytest.mark.parametrize("of_each", [1, 2, 8])
def test_fewer_images_miss_more_of_their_labels(of_each):
    half = learned(of_each, len(FOLDERS) * of_each // 2)
    share = float((half.answers == half.marks.bool()).all(1).double().mean())
    assert 0 < half.expected.mean - share < 0.25
    assert half.expected.mean - share > learned(16, 40).expected.mean - 0.5


def test_labels_of_one_image_each_promise_little():
    single = LearnedMarks(learned(1, 0).head, torch.zeros(3), torch.eye(3, dtype=torch.long), torch.ones(3, 3).bool())
    assert single.expected.mean < 0.1 and 0 < single.expected.low < single.expected.high < 0.7
