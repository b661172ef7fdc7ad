import pytest
import torch

from fewshot_cli.engine.head.ridge import marks_head, marks_leave_one_out, ridge_head
from fewshot_cli.engine.head.thresholds import (
    answers_by_thresholds_of_others,
    chosen_thresholds,
    common_threshold,
    greatest_f1,
    platt_scaling,
    with_the_share_of_all,
)
from fewshot_cli.engine.trust.label_sets import by_class, exact_matches, macro_f1

RNG = torch.Generator().manual_seed(0)
FEATURES = torch.randn(14, 6, generator=RNG)
MARKS = (torch.rand(14, 3, generator=RNG) < 0.4).long()
PROBABILITIES = (0.4 * MARKS + 0.6 * torch.rand(14, 3, generator=RNG)).double().clamp(0.01, 0.99)


def test_one_mark_an_image_is_plain_ridge():
    labels = torch.arange(14) % 3
    marks = torch.nn.functional.one_hot(labels, 3)
    plain, marked = ridge_head(FEATURES, labels, 3), marks_head(FEATURES, marks)
    assert torch.equal(plain.weight, marked.weight) and torch.equal(plain.bias, marked.bias)


def test_leave_one_out_is_that_of_heads_fitted_without_the_image():
    scores = marks_leave_one_out(FEATURES, MARKS, 0.3)
    for i in range(len(FEATURES)):
        others = torch.arange(len(FEATURES)) != i
        head = marks_head(FEATURES[others].double(), MARKS[others], 0.3, scale=1)
        torch.testing.assert_close(scores[i], head.logits(FEATURES[i : i + 1].double())[0])


def test_without_features_that_say_something_a_left_out_score_is_the_share_of_all():
    nothing = torch.zeros(14, 6)
    scores = with_the_share_of_all(marks_leave_one_out(nothing, MARKS, 0.3), MARKS)
    torch.testing.assert_close(scores, MARKS.double().mean(0).expand(14, 3))


def test_probabilities_are_the_likeliest():
    factor, offset = platt_scaling(PROBABILITIES, MARKS)
    n, ones = MARKS.numel(), int(MARKS.sum())
    targets = torch.where(MARKS > 0, (ones + 1) / (ones + 2), 1 / (n - ones + 2)).double()

    def loss(a: float, b: float) -> float:
        logits = a * PROBABILITIES + b
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, targets))

    for a, b in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1)):
        assert loss(factor + a, offset + b) > loss(factor, offset)


def test_marks_that_are_separated_leave_the_factor_finite():
    factor, offset = platt_scaling(MARKS.double(), MARKS)
    assert 0 < factor < 100 and abs(offset) < 100


def test_thresholds_have_the_greatest_f1():
    found = greatest_f1(PROBABILITIES, MARKS, torch.full((3,), 0.5))
    for column in range(3):
        truth, shares = MARKS[:, column].bool(), PROBABILITIES[:, column]

        def f1(threshold: float, truth=truth, shares=shares) -> float:
            given = shares > threshold
            return 2 * int((given & truth).sum()) / int(given.sum() + truth.sum())

        best = max(f1(threshold) for threshold in torch.linspace(0, 0.999, 2000).tolist())
        assert f1(float(found[column])) == pytest.approx(best)


def test_a_label_of_one_image_takes_the_threshold_of_all():
    marks = MARKS.clone()
    marks[:, 0] = 0
    marks[3, 0] = 1
    torch.testing.assert_close(chosen_thresholds(PROBABILITIES, marks)[:1], common_threshold(PROBABILITIES, marks))


def test_thresholds_lie_between_their_own_and_that_of_all():
    common = common_threshold(PROBABILITIES, MARKS)
    own = greatest_f1(PROBABILITIES, MARKS, common.expand(3))
    found = chosen_thresholds(PROBABILITIES, MARKS)
    assert bool(((found - common) * (own - common) >= 0).all())
    assert bool(((found - common).abs() <= (own - common).abs()).all()) and not torch.equal(found, own)


def test_no_image_is_asked_about_with_a_threshold_that_it_chose():
    answers = answers_by_thresholds_of_others(PROBABILITIES, MARKS)
    for i in range(len(MARKS)):
        others = torch.arange(len(MARKS)) != i
        wanted = PROBABILITIES[i] > chosen_thresholds(PROBABILITIES[others], MARKS[others])
        assert torch.equal(answers[i], wanted)


def test_figures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    answers, marks = PROBABILITIES > 0.5, MARKS.bool()
    counts = by_class(answers, marks)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(marks, answers)
    assert [each.precision for each in counts] == pytest.approx(precision)
    assert [each.recall for each in counts] == pytest.approx(recall)
    assert macro_f1(counts) == pytest.approx(f1.mean())
    assert exact_matches(answers, marks) / len(marks) == pytest.approx(metrics.accuracy_score(marks, answers))
