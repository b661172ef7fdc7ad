"""Heads against naive formulas, scikit-learn and published numbers; leave-one-out against refitting."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import kernel_ridge, linear_model

from fewshot_cli.engine.defaults import COSINE_RIDGE_BALANCE
from fewshot_cli.engine.head.linear import class_means, typical_norm
from fewshot_cli.methods.cosine_ridge import CosineRidge
from fewshot_cli.methods.gaussian import Gaussian
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.logistic import Logistic
from fewshot_cli.methods.many_tasks import TASKS_AT_ONCE, logits_of_tasks
from fewshot_cli.methods.protonet import ProtoNet
from fewshot_cli.methods.ridge import Ridge

UNEVEN = (5, 1, 2, 7)


def task(shots=UNEVEN, dim=6, seed=0):
    """Features around class centres, labels and queries, in no order."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(shots)), torch.tensor(shots))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    centres = torch.randn(len(shots), dim, generator=rng)
    features = centres[labels] + 0.7 * torch.randn(len(labels), dim, generator=rng)
    return features, labels, torch.randn(11, dim, generator=rng)


def one_hot(labels, way):
    return F.one_hot(labels, way).double().numpy()


@pytest.mark.parametrize("shots", [UNEVEN, (1, 1), (30, 30, 30)])
@pytest.mark.parametrize("dim", [6, 60])
def test_ridge_is_scikit_learns(shots, dim):
    features, labels, queries = task(shots, dim)
    method = Ridge(strength=0.3, scale=4.0)
    x, q = (values.double().numpy() / float(typical_norm(features)) for values in (features, queries))
    oracle = linear_model.Ridge(alpha=0.3, fit_intercept=True).fit(x, one_hot(labels, len(shots)))
    expected = torch.from_numpy(4.0 * oracle.predict(q)).float()
    torch.testing.assert_close(
        method.head(features, labels, len(shots)).logits(queries), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("strength", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("dim", [6, 60])
def test_logistic_regression_is_scikit_learns(strength, dim):
    features, labels, queries = task(dim=dim)
    x, q = (values.double().numpy() / float(typical_norm(features)) for values in (features, queries))
    oracle = linear_model.LogisticRegression(C=strength, max_iter=20000, tol=1e-9).fit(x, labels.numpy())
    head = Logistic(inverse_strength=strength).head(features, labels, way=len(UNEVEN))
    actual = head.logits(queries).log_softmax(1)  # the same number may be added to all intercepts
    torch.testing.assert_close(actual, torch.from_numpy(oracle.predict_log_proba(q)).float(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("shots", [UNEVEN, (1, 1), (30, 30, 30)])
@pytest.mark.parametrize("dim", [6, 60])
def test_cosine_ridge_is_scikit_learns_kernel_ridge_and_classes_of_few_images_count_for_more(shots, dim):
    features, labels, queries = task(shots, dim)
    more = (torch.tensor(shots).double().mean() / torch.tensor(shots)) ** COSINE_RIDGE_BALANCE
    oracle = kernel_ridge.KernelRidge(alpha=0.2, kernel="cosine").fit(
        features.double().numpy(), one_hot(labels, len(shots))
    )
    expected = (4.0 * more * torch.from_numpy(oracle.predict(queries.double().numpy()))).float()
    head = CosineRidge(strength=0.2, scale=4.0).head(features, labels, len(shots))
    assert not head.bias.any()
    torch.testing.assert_close(head.logits(queries), expected, rtol=1e-4, atol=1e-5)


def naive_lda(features, labels, way, queries, covariance, ridge):
    """logit_c(f) = f' S^-1 m_c - m_c' S^-1 m_c / 2, one class and one image at a time, in float64."""
    f, y = features.double().numpy(), labels.numpy()
    dim, present = f.shape[1], np.unique(y)
    means = {c: f[y == c].mean(0) for c in present}
    scatter = np.zeros((dim, dim))
    for row, c in zip(f, y, strict=True):
        deviation = row - (f.mean(0) if covariance == "total" else means[c])
        scatter += np.outer(deviation, deviation)
    freedom = max(1, len(f) - (1 if covariance == "total" else len(present)))
    inverse = np.linalg.inv(scatter / freedom + ridge * np.eye(dim))
    logits = np.zeros((len(queries), way))
    for i, query in enumerate(queries.double().numpy()):
        for c in present:
            logits[i, c] = query @ inverse @ means[c] - 0.5 * means[c] @ inverse @ means[c]
    return torch.from_numpy(logits).float()


@pytest.mark.parametrize("covariance", ["total", "within"])
@pytest.mark.parametrize("shots", [UNEVEN, (1, 1, 1), (3, 0, 2), (1,)])
@pytest.mark.parametrize("ridge", [0.1, 1.0])
@pytest.mark.parametrize("dim", [9, 60])  # fewer than images, and more: through the smaller of the two Gram matrices
def test_lda_is_its_formula(covariance, shots, ridge, dim):
    features, labels, queries = task(shots, dim)
    head = LDA(covariance=covariance, ridge=ridge).head(features, labels, len(shots))
    expected = naive_lda(features, labels, len(shots), queries, covariance, ridge)
    torch.testing.assert_close(head.logits(queries), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", ["many", "fewer_than_dims", "missing_class", "single_image", "big_scale"])
def test_lda_is_the_published_head_of_fsa(golden, case):
    """Weights, biases, logits to 1e-5 of the largest. A class without an image has zero weight and logit there too."""
    vectors, config = golden("fsa_fit")
    part = {key: vectors[f"fsa.{case}.{key}"] for key in ("features", "labels", "query", "weight", "bias", "logits")}
    head = LDA(ridge=config["ridge"]).head(part["features"], part["labels"], config["classes"][case])
    answers = {"weight": head.weight, "bias": head.bias, "logits": head.logits(part["query"])}
    for key, actual in answers.items():
        assert (actual - part[key]).abs().max() <= 1e-5 * part[key].abs().max(), key


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_protonet_answers_the_nearest_class_mean(distance):
    features, labels, queries = task()
    means = class_means(features, labels, way=4)
    answers = ProtoNet(distance=distance).head(features, labels, way=4).logits(queries).argmax(1)
    if distance == "euclidean":
        nearest = [min(range(4), key=lambda c: float((query - means[c]).norm())) for query in queries]
    else:
        nearest = [max(range(4), key=lambda c: float(F.cosine_similarity(query, means[c], dim=0))) for query in queries]
    assert answers.tolist() == nearest


EVERY_CLOSED_FORM = {
    "protonet-cosine": ProtoNet(distance="cosine"),
    "protonet-euclidean": ProtoNet(distance="euclidean"),
    "ridge-weak": Ridge(strength=0.05),
    "ridge": Ridge(),
    "lda-total": LDA(covariance="total"),
    "lda-within": LDA(covariance="within"),
    "lda-weak": LDA(covariance="within", ridge=0.05),
    "gaussian": Gaussian(),
    "cosine-ridge": CosineRidge(),
    "cosine-ridge-strong": CosineRidge(strength=1.0, scale=3.0),
}


@pytest.mark.parametrize("name", EVERY_CLOSED_FORM)
@pytest.mark.parametrize("shots", [UNEVEN, (3, 3, 3), (1, 1, 1), (2, 1), (1, 2, 0, 4)])
@pytest.mark.parametrize("dim", [6, 40])
def test_leave_one_out_is_refitting_without_each_image(name, shots, dim):
    method = EVERY_CLOSED_FORM[name]
    features, labels, _ = task(shots, dim)
    way = len(shots)
    logits = method.leave_one_out(features, labels, way)
    assert logits.shape == (len(labels), way)
    counts = torch.bincount(labels, minlength=way)
    for i in range(len(labels)):
        others = torch.arange(len(labels)) != i
        refitted = method.head(features[others], labels[others], way).logits(features[i])
        if counts[labels[i]] == 1:
            refitted[labels[i]] = -torch.inf  # nothing is known of the class any more
        torch.testing.assert_close(logits[i], refitted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_leave_one_out_of_ridge_leaves_the_typical_norm_out_too(seed):
    """Features whose norm lies where it is rounded to one power of two or the next, as one image decides."""
    features, labels, _ = task((3, 3, 3), seed=seed)
    features *= 2**0.5 / features.square().sum(1).mean().sqrt()
    norms = {float(typical_norm(features[torch.arange(9) != i])) for i in range(9)}
    assert norms == {1.0, 2.0}
    logits = Ridge().leave_one_out(features, labels, 3)
    for i in range(9):
        others = torch.arange(9) != i
        refitted = Ridge().head(features[others], labels[others], 3).logits(features[i])
        torch.testing.assert_close(logits[i], refitted, rtol=1e-4, atol=1e-4)


def stacked_tasks(tasks, dim, shots=(3, 2, 4), seed=0):
    """Features `(tasks, support, dim)`, labels in another order in each task, and queries `(tasks, 11, dim)`."""
    each = [task(shots, dim, seed + i) for i in range(tasks)]
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))


@pytest.mark.parametrize("name", EVERY_CLOSED_FORM)
@pytest.mark.parametrize("dim", [6, 40])
def test_stacked_tasks_get_the_head_of_each(name, dim):
    method = EVERY_CLOSED_FORM[name]
    features, labels, queries = stacked_tasks(6, dim)
    labels[1] = labels[1].clamp(max=1)  # a class without an image in one task: other counts, other degrees of freedom
    head = method.head(features, labels, way=3)
    assert (head.weight.shape, head.bias.shape) == ((6, 3, dim), (6, 3))
    two_axes = method.head(features.view(2, 3, 9, dim), labels.view(2, 3, 9), way=3)
    torch.testing.assert_close(two_axes.logits(queries.view(2, 3, 11, dim)).flatten(0, 1), head.logits(queries))
    for i in range(6):
        expected = method.head(features[i], labels[i], way=3).logits(queries[i])
        torch.testing.assert_close(head.logits(queries)[i], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY_CLOSED_FORM)
@pytest.mark.parametrize("dim", [37, 192])
def test_tasks_in_float32_answer_what_float64_answers(name, dim):
    method = EVERY_CLOSED_FORM[name]
    features, labels, queries = stacked_tasks(100, dim)
    actual = method.head(features, labels, way=3).logits(queries)
    expected = method.head(features.double(), labels, way=3).logits(queries.double())
    assert actual.dtype == torch.float32
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))
    largest = expected.abs().amax((-2, -1), keepdim=True)
    assert ((actual - expected).abs() <= 1e-5 * largest).all()


@pytest.mark.parametrize("name", EVERY_CLOSED_FORM)
@pytest.mark.parametrize("dim", [37, 192])
def test_a_task_has_the_same_bits_whichever_tasks_are_next_to_it(name, dim):
    method = EVERY_CLOSED_FORM[name]
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(300, dim, generator=rng)
    rows = torch.stack([torch.randperm(300, generator=rng)[:24] for _ in range(2 * TASKS_AT_ONCE + 7)])
    support, queries, labels = rows[:, :9], rows[:, 9:], torch.arange(3).repeat(len(rows), 3)

    def answers(tasks):
        return logits_of_tasks(method, features, support[tasks], labels[tasks], queries[tasks], way=3)

    every = answers(torch.arange(len(rows)))
    assert every.shape == (len(rows), 15, 3)
    kept = torch.rand(len(rows), generator=rng) < 0.5
    others = torch.where(kept, torch.arange(len(rows)), torch.randperm(len(rows), generator=rng))
    assert torch.equal(answers(others)[kept], every[kept])
    assert torch.equal(answers(torch.arange(60)), every[:60])  # the last chunk is filled
    for i in (0, 60, len(rows) - 1):
        alone = method.head(features[support[i]], labels[i], way=3).logits(features[queries[i]])
        torch.testing.assert_close(every[i], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", EVERY_CLOSED_FORM)
def test_leave_one_out_leaves_its_input_alone(name):
    features, labels, _ = task()
    before = features.clone(), labels.clone()
    EVERY_CLOSED_FORM[name].leave_one_out(features, labels, 4)
    assert torch.equal(features, before[0])
    assert torch.equal(labels, before[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ProtoNet(distance="cosine"), ProtoNet(distance="euclidean")),
        (Ridge(strength=1.0), Ridge(strength=2.0)),
        (Ridge(scale=1.0), Ridge(scale=2.0)),
        (LDA(covariance="total"), LDA(covariance="within")),
        (LDA(ridge=1.0), LDA(ridge=2.0)),
        (Logistic(inverse_strength=1.0), Logistic(inverse_strength=2.0)),
    ],
)
def test_every_setting_changes_the_head(one, other):
    features, labels, queries = task()
    first, second = (method.head(features, labels, 4).logits(queries) for method in (one, other))
    assert not torch.allclose(first, second, rtol=1e-3)
