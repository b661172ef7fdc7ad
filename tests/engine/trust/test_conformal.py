import numpy as np
import pytest
import torch
from crepes import ConformalClassifier
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from fewshot_cli.engine.trust.conformal import label_sets, set_thresholds
from fewshot_cli.engine.trust.images_needed import images_for_sets, most_coverage

WAY = 4


def answers(n, seed):
    rng = torch.Generator().manual_seed(seed)
    probabilities = (2 * torch.randn(n, WAY, generator=rng, dtype=torch.float64)).softmax(1)
    return probabilities, torch.multinomial(probabilities, 1, generator=rng).squeeze(1)


def by_class(probabilities, labels):
    scores = 1 - probabilities.gather(1, labels[:, None]).squeeze(1)
    return [scores[labels == label].tolist() for label in range(WAY)]


class Known(ClassifierMixin, BaseEstimator):
    """A classifier that is given its probabilities."""

    def fit(self, X, y):
        self.classes_, self.is_fitted_ = np.arange(WAY), True
        return self

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return np.asarray(X).argmax(1)


@pytest.mark.parametrize("coverage", [0.6, 0.8, 0.9])
def test_sets_for_all_classes_together_are_those_of_mapie(coverage):
    held_out, labels = answers(40, seed=1)
    together = [score for scores in by_class(held_out, labels) for score in scores]
    thresholds = set_thresholds([together, *([[]] * (WAY - 1))], coverage)  # no class can be told by itself
    assert not thresholds.by_class
    new, _ = answers(200, seed=2)
    theirs = SplitConformalClassifier(Known().fit(None, None), confidence_level=coverage, conformity_score="lac")
    theirs.conformalize(held_out.numpy(), labels.numpy())
    _, sets = theirs.predict_set(new.numpy())
    sets = torch.from_numpy(sets[:, :, 0]).scatter(1, new.argmax(1, keepdim=True), True)
    assert torch.equal(label_sets(new, thresholds), sets)


@pytest.mark.parametrize("coverage", [0.6, 0.8, 0.9])
def test_sets_for_each_class_by_itself_are_those_of_crepes(coverage):
    held_out, labels = answers(200, seed=3)
    thresholds = set_thresholds(by_class(held_out, labels), coverage)
    assert thresholds.by_class
    new, _ = answers(200, seed=4)
    scores = 1 - held_out.gather(1, labels[:, None]).squeeze(1)
    theirs = ConformalClassifier().fit(scores.numpy(), bins=labels.numpy())
    p = [
        theirs.predict_p((1 - new[:, [label]]).numpy(), bins=np.full(len(new), label), smoothing=False)
        for label in range(WAY)
    ]
    sets = torch.from_numpy(np.concatenate(p, 1) > 1 - coverage + 1e-9)
    assert torch.equal(label_sets(new, thresholds), sets.scatter(1, new.argmax(1, keepdim=True), True))


def test_sets_hold_the_true_label_as_often_as_promised_in_each_class():
    right = np.zeros(WAY)
    counts = np.zeros(WAY)
    for seed in range(300):
        held_out, labels = answers(120, seed)
        thresholds = set_thresholds(by_class(held_out, labels), 0.8)
        new, true = answers(50, 10_000 + seed)
        inside = label_sets(new, thresholds).gather(1, true[:, None]).squeeze(1)
        for label in range(WAY):
            right[label] += int(inside[true == label].sum())
            counts[label] += int((true == label).sum())
    assert ((right / counts) > 0.78).all()
    assert ((right / counts) < 0.86).all()


@pytest.mark.parametrize("coverage, images", [(0.9, 9), (0.8, 4), (0.95, 19), (0.5, 1)])
def test_too_few_images_to_tell(coverage, images):
    assert images_for_sets(coverage) == images
    assert images_for_sets(most_coverage(images)) <= images
    set_thresholds([[0.5] * images, []], coverage)
    if images > 1:
        with pytest.raises(ValueError, match=f"take {images} held-out images, not {images - 1}"):
            set_thresholds([[0.5] * (images - 1), []], coverage)


def test_a_set_is_never_empty():
    thresholds = set_thresholds([[0.0] * 20, [0.0] * 20, [0.0] * 20], 0.9)
    sets = label_sets(torch.tensor([[0.4, 0.3, 0.3]]), thresholds)
    assert sets.tolist() == [[True, False, False]]
