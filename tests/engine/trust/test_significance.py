"""Figures about answers against scipy and their definitions."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, log_loss

from fewshot_cli.engine.trust.metrics import (
    balanced_accuracy,
    best_sharpening,
    calibration_error,
    calibration_errors,
    confusion_matrix,
    negative_log_likelihood,
    wilson,
)
from fewshot_cli.engine.trust.significance import holm, mean_interval, mean_over, paired, paired_over


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


def many_tasks(tasks: int = 5, queries: int = 40, way: int = 4):
    rng = torch.Generator().manual_seed(1)
    labels = torch.randint(0, way, (tasks, queries), generator=rng)
    logits = torch.randn(tasks, queries, way, generator=rng) + torch.nn.functional.one_hot(labels, way)
    return logits, labels


@pytest.mark.parametrize(
    "figure",
    [
        lambda logits, labels: calibration_errors(logits.softmax(-1), labels),
        negative_log_likelihood,
        lambda logits, labels: balanced_accuracy(logits.argmax(-1), labels, 4),
    ],
)
def test_many_tasks_at_once_have_the_figures_that_each_has(figure):
    logits, labels = many_tasks()
    each = [figure(task, answers) for task, answers in zip(logits, labels, strict=True)]
    assert figure(logits, labels).shape == (5,)
    torch.testing.assert_close(figure(logits, labels), torch.stack(each))
    assert calibration_error(logits[0].softmax(-1), labels[0]) == pytest.approx(
        float(calibration_errors(logits.softmax(-1), labels)[0])
    )


def test_the_likelihood_is_scikit_learns_log_loss_and_finite_for_extreme_logits():
    logits, labels = many_tasks(1)
    oracle = log_loss(labels[0].numpy(), logits[0].double().softmax(-1).numpy(), labels=range(4))
    assert float(negative_log_likelihood(logits, labels)[0]) == pytest.approx(oracle, rel=1e-5)
    assert float(negative_log_likelihood(torch.tensor([[500.0, 0.0]]), torch.tensor([1]))) == pytest.approx(500)


def test_the_balanced_accuracy_is_scikit_learns_and_skips_classes_that_are_not_asked():
    labels, given = torch.tensor([0, 0, 0, 0, 2, 2]), torch.tensor([0, 0, 0, 1, 2, 1])
    assert float(balanced_accuracy(given, labels, 5)) == pytest.approx((3 / 4 + 1 / 2) / 2)
    logits, labels = many_tasks(1)
    oracle = balanced_accuracy_score(labels[0].numpy(), logits[0].argmax(-1).numpy())
    assert float(balanced_accuracy(logits.argmax(-1), labels, 4)[0]) == pytest.approx(oracle)


def samples(*sizes: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.6 + 0.1 * i, 0.05 * (i + 1), size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("n", [2, 3, 30, 600])
def test_the_mean_has_scipys_t_interval(n):
    (values,) = samples(n)
    found = mean_interval(values.tolist())
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean - found.ci95, found.mean + found.ci95) == pytest.approx((low, high))
    assert found.n == n


def test_one_episode_has_no_interval_and_equal_ones_have_none_to_either_side():
    assert (mean_interval([0.7]).mean, mean_interval([0.7]).ci95) == (0.7, None)
    assert mean_over([[0.7, 0.8], [0.5]]).ci95 is None
    assert (mean_interval([0.1] * 7).mean, mean_interval([0.1] * 7).ci95) == (0.1, 0)


def test_two_strata_have_the_degrees_of_freedom_of_welchs_test():
    """Half a difference is the mean of one stratum and of the other with its sign turned."""
    first, second = samples(12, 40)
    found = mean_over([first.tolist(), (-second).tolist()])
    oracle = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx((oracle.low + oracle.high) / 4)
    assert found.ci95 == pytest.approx((oracle.high - oracle.low) / 4)


def test_a_mean_over_strata_does_not_depend_on_how_many_episodes_each_has():
    assert mean_over([[0.2, 0.4], [0.8] * 50]).mean == pytest.approx(0.55)
    assert mean_over([[0.2, 0.4], [0.8] * 50], weights=[0.75, 0.25]).mean == pytest.approx(0.425)
    assert mean_over([[0.2, 0.4], [0.8] * 50]).n == 52


def test_the_paired_difference_is_scipys_paired_t_test():
    first, second = samples(40, 40)
    found, oracle = paired(first.tolist(), second.tolist()), stats.ttest_rel(first, second)
    assert found.p == pytest.approx(oracle.pvalue)
    interval = oracle.confidence_interval(0.95)
    assert (found.mean - found.ci95, found.mean + found.ci95) == pytest.approx((interval.low, interval.high))
    assert (found.wins, found.ties, found.losses) == ((first > second).sum(), 0, (first < second).sum())
    assert found.n == 40


def test_turning_a_pair_turns_the_sign_and_nothing_else():
    first, second = (values.tolist() for values in samples(20, 20))
    there, back = paired(first, second), paired(second, first)
    assert (back.mean, back.ci95, back.p) == (-there.mean, there.ci95, there.p)
    assert (back.wins, back.losses) == (there.losses, there.wins)


def test_methods_that_answer_alike_do_not_differ():
    found = paired([0.2, 0.9, 0.4], [0.2, 0.9, 0.4])
    assert (found.mean, found.ci95, found.p, found.ties) == (0, 0, 1, 3)


def test_one_constant_difference_is_never_more_certain_than_flipped_signs():
    """Though floats make 0.3 - 0.2, 0.8 - 0.7 and 0.9 - 0.8 three numbers."""
    found = paired([0.3, 0.8, 0.9], [0.2, 0.7, 0.8])
    assert (found.mean, found.ci95, found.p) == (pytest.approx(0.1), 0, 0.25)
    assert paired([0.9] * 100, [0.8] * 100).p < 1e-20


def test_one_episode_shows_no_difference():
    found = paired([0.9], [0.1])
    assert (found.mean, found.ci95, found.p, found.wins) == (0.8, None, None, 1)


def test_differences_over_strata_are_means_over_strata_of_differences():
    first, second, third, fourth = samples(10, 10, 30, 30)
    found = paired_over([first, third], [second, fourth])
    means = mean_over([first - second, third - fourth])
    assert (found.mean, found.ci95, found.n) == (pytest.approx(means.mean), pytest.approx(means.ci95), 40)
    assert (found.p < 0.05) == (abs(found.mean) > found.ci95)


def test_holms_p_values_are_those_of_a_worked_example_and_of_the_definition():
    # 3 x 0.01 = 0.03, 2 x 0.03 = 0.06, and 1 x 0.04 is not below what the one before has
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    p_values = np.random.default_rng(0).uniform(0, 0.2, 12).tolist()
    adjusted = holm(p_values)
    for level in np.linspace(0.001, 0.999, 200):
        rejected = set()
        for rank, place in enumerate(np.argsort(p_values)):  # step down until one is not rejected
            if p_values[place] > level / (len(p_values) - rank):
                break
            rejected.add(int(place))
        assert rejected == {place for place, p in enumerate(adjusted) if p <= level}


@pytest.mark.parametrize("sizes", [(8,), (4, 30), (20, 20, 20)])
def test_an_interval_holds_the_truth_in_95_of_100_cases(sizes):
    rng = np.random.default_rng(0)
    truth, held, times = np.arange(len(sizes)).mean(), 0, 2000
    for _ in range(times):
        found = mean_over([rng.normal(i, 1 + 2 * i, size) for i, size in enumerate(sizes)])
        held += abs(found.mean - truth) <= found.ci95
    assert held / times == pytest.approx(0.95, abs=0.02)  # four standard errors of the simulation
