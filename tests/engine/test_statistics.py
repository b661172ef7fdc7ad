"""Figures about answers against scipy and their definitions."""

import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from fewshot_cli.engine.statistics import best_sharpening, calibration_error, confusion_matrix, wilson


def answers(n: int = 60, way: int = 4):
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(0, way, (n,), generator=rng)
    noise = torch.randn(n, way, generator=rng)
    return noise + 1.5 * torch.nn.functional.one_hot(labels, way), labels


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 9), (500, 1000)])
def test_the_interval_is_scipys_wilson(right, n):
    ours, oracle = wilson(right, n), binomtest(right, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=1e-9)
    assert (ours.mean, ours.n) == (right / n, n)


def test_the_confusion_matrix_counts_true_classes_in_rows():
    labels, given = torch.tensor([0, 0, 1, 3]), torch.tensor([0, 2, 1, 0])
    counts = confusion_matrix(given, labels, way=4)
    expected = torch.zeros(4, 4, dtype=torch.long)
    for true, answer in ((0, 0), (0, 2), (1, 1), (3, 0)):
        expected[true, answer] += 1
    assert torch.equal(counts, expected)


def test_the_calibration_error_is_its_definition():
    logits, labels = answers()
    probabilities = logits.softmax(1)
    confidence, given = probabilities.max(1)
    total = 0.0
    for low in range(10):
        inside = (confidence > low / 10) & (confidence <= (low + 1) / 10)
        if inside.any():
            share_right = (given == labels)[inside].double().mean()
            total += float(inside.sum() * (share_right - confidence[inside].mean()).abs())
    assert calibration_error(probabilities, labels, bins=10) == pytest.approx(total / len(labels), abs=1e-6)
    assert calibration_error(torch.eye(3), torch.arange(3)) == 0
    assert calibration_error(torch.eye(3), torch.tensor([1, 2, 0])) == 1


def test_the_best_sharpening_has_the_least_cross_entropy_with_platts_targets():
    logits, labels = answers()
    n, way = logits.shape

    def loss(log_factor: float) -> float:
        log_p = (2.718281828459045**log_factor * logits.double()).log_softmax(1)
        true = log_p[range(n), labels]
        return float(-((n + 1) * true + (log_p.sum(1) - true) / (way - 1)).mean() / (n + 2))

    optimum = 2.718281828459045 ** minimize_scalar(loss, bounds=(-4, 6), method="bounded").x
    assert best_sharpening(logits, labels) == pytest.approx(optimum, rel=0.03)  # 100 factors to a power of ten
    assert best_sharpening(3 * logits, labels) == pytest.approx(optimum / 3, rel=0.03)


def test_answers_that_are_all_right_are_not_made_infinitely_sharp():
    logits, labels = 5 * torch.eye(3), torch.arange(3)
    assert 0.01 < best_sharpening(logits, labels) < 10
