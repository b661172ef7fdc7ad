from typing import Literal

import pytest
import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Support
from fewshot_cli.engine.head.cosine_ridge import balance
from fewshot_cli.engine.head.linear import Head, class_means
from fewshot_cli.engine.trust.unknown import known_scores, refusal_threshold
from fewshot_cli.jobs.classify.held_out import (
    Adaptation,
    HeldOut,
    held_out,
    in_folds,
    left_out_one_by_one,
    scores_of,
    sharpening_of,
)
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.methods.base import HeadMethod
from fewshot_cli.recipes import load_recipe


class Memory(HeadMethod):
    """Knows the images it was fitted on, and nothing else: on features that are one-hot, others get logits of zero."""

    name: Literal["memory"] = "memory"

    def head(self, features: Tensor, labels: Tensor, way: int) -> Head:
        return Head(class_means(features, labels, way), torch.zeros(way), unit_norm=False)


def task(labels: list[int], features: Tensor | None = None) -> Support:
    way = max(labels) + 1
    features = torch.eye(len(labels)) if features is None else features
    return Support(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), torch.tensor(labels), features, way)


def asked(support: Support, folds: int, seed: int = 0, recipe: str | None = None, backbone=None) -> HeldOut | str:
    method = load_recipe(recipe).method if recipe else Memory()
    return held_out(Adaptation(method, backbone, support, seed), folds, NoProgress())


@pytest.mark.parametrize("folds", [2, 3, 5, 50])
@pytest.mark.parametrize("labels", [[0] * 4 + [1] * 4, [0] * 7 + [1] * 2 + [2] * 3, [0] * 5 + [1], [0, 1, 2] * 5])
def test_no_image_is_judged_by_a_head_that_was_fitted_on_it(labels, folds, vit):
    found = asked(task(labels), folds, backbone=vit)
    assert not found.logits.any()
    once = [label for label in labels if labels.count(label) > 1]
    assert sorted(found.labels.tolist()) == sorted(once)
    assert found.how == f"{min(folds, max(labels.count(label) for label in labels))}-fold, {len(once)} images"


def test_a_head_that_is_judged_on_what_it_knows_would_show():
    """So that the test above can fail."""
    support = task([0, 0, 1, 1])
    assert Memory().head(support.features, support.labels, 2).logits(support.features).any()


@pytest.mark.parametrize("recipe", ["logistic", "ridge", "lda", "protonet", "protonet-euclidean"])
def test_labels_that_mean_nothing_are_not_learned(recipe, vit):
    """With more features than images every label can be learned by heart; the estimate must not be taken in."""
    features = torch.randn(60, 256, generator=torch.Generator().manual_seed(0))
    support = task([0, 1] * 30, features)
    method = load_recipe(recipe).method
    known = method.head(features, support.labels, 2).logits(features).argmax(1)
    assert (known == support.labels).float().mean() > 0.9
    accuracy = asked(support, 5, recipe=recipe, backbone=vit).accuracy
    assert accuracy.low <= 0.5


@pytest.mark.parametrize("recipe", ["logistic", "ridge", "lda", "protonet"])
def test_labels_that_mean_something_are_learned(recipe, vit):
    labels = torch.arange(3).repeat(8)
    features = torch.randn(24, 16, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(3, 16)[labels]
    assert asked(task(labels.tolist(), features), 5, recipe=recipe, backbone=vit).accuracy.mean > 0.9


def test_the_seed_decides_the_folds(vit):
    support = task([0] * 6 + [1] * 6, torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
    first, again, other = (asked(support, 3, seed, backbone=vit).logits for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_where_nothing_can_be_held_out_there_is_a_reason(vit):
    assert "one image per class" in asked(task([0, 1, 2]), 5, backbone=vit)
    for folds in (0, 1):
        assert "--folds" in asked(task([0, 0, 1, 1]), folds, backbone=vit)


@pytest.mark.parametrize("recipe", ["ridge", "protonet"])
def test_a_formula_is_judged_in_folds_where_it_is_to_be_compared_so(recipe, vit):
    """In halves of two images a class, each answer is that of the head which knows the other image of each."""
    support = task([0, 1, 2] * 2, torch.randn(6, 16, generator=torch.Generator().manual_seed(0)))
    method = load_recipe(recipe).method
    found = in_folds(Adaptation(method, vit, support, seed=0), 5, NoProgress())
    assert found.how == "2-fold, 6 images"
    for row in range(6):
        others = [torch.tensor([a, b, c]) for a in (0, 3) for b in (1, 4) for c in (2, 5) if row not in (a, b, c)]
        answers = [method.head(support.features[o], support.labels[o], 3).logits(support.features) for o in others]
        assert any(torch.allclose(found.logits[row], each[row], atol=1e-5) for each in answers)


def known_refused(recipe: str, images: int, share: float) -> float:
    """The share of new pictures of the classes that is refused, the mean over tasks of clouds in 64 dimensions."""
    learner, shares = load_recipe(recipe).learner, []
    for seed in range(30):
        rng = torch.Generator().manual_seed(seed)
        middles, shape = 1 + torch.randn(5, 1, 64, generator=rng), torch.randn(64, 64, generator=rng) / 8

        def drawn(count, middles=middles, shape=shape, rng=rng):
            return (middles + 1.2 * torch.randn(5, count, 64, generator=rng) @ shape).flatten(0, 1)

        features, labels, new = drawn(images), torch.arange(5).repeat_interleave(images), drawn(40)
        held = left_out_one_by_one(learner.closed_form, features, labels, 5)
        factor = sharpening_of(held, learner, 64)
        known = scores_of(held, learner, factor, "abcde").known
        logits = factor * learner.closed_form.head(features, labels, 5).logits(new)
        score = known_scores(logits, learner.known_score(negatives=False))
        shares.append(float((score < refusal_threshold(torch.tensor(known), share)).float().mean()))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("recipe", ["cosine-ridge", "protonet", "lda"])
def test_new_pictures_are_refused_about_as_often_as_was_said(recipe):
    assert known_refused(recipe, 5, 0.2) == pytest.approx(0.2, abs=0.05)
    assert known_refused(recipe, 5, 0.1) == pytest.approx(0.1, abs=0.04)


def test_a_class_that_lost_an_image_is_not_raised_to_tell_how_known_it_is():
    labels = torch.tensor([0] * 2 + [1] * 5 + [2])
    features = torch.randn(len(labels), 16, generator=torch.Generator().manual_seed(0))
    method = load_recipe("cosine-ridge").learner.closed_form
    found = method.known_left_out(method.leave_one_out(features, labels, 3), labels)
    counts = torch.bincount(labels).double()
    for row in range(7):
        rest = torch.arange(len(labels)) != row
        less = torch.bincount(labels[rest], minlength=3).double()
        logits = method.head(features[rest], labels[rest], 3).logits(features[[row]])[0]
        torch.testing.assert_close(found[row], (logits / balance(less) * balance(counts)).float())
