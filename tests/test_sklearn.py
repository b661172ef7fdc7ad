"""The estimator keeps scikit-learn's contract on features, and does what `adapt` does on pictures."""

import doctest
import pickle

import numpy as np
import pytest
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_methods_subset_invariance, parametrize_with_checks

import fewshot_cli as fewshot
from fewshot_cli import sklearn as ours
from fewshot_cli.images.drawing import draw
from fewshot_cli.sklearn import FewshotClassifier

EXPECTED_FAILED = {
    "tim": {
        "check_methods_subset_invariance": "a transductive head answers from all rows at once",
    },
}
"""By recipe, the checks that it is not to pass, and why."""


TIM = FewshotClassifier("tim", set={"method.steps": 100})


def expected_failed(estimator: FewshotClassifier) -> dict[str, str]:
    return EXPECTED_FAILED.get(str(estimator.recipe), {})


@pytest.mark.slow
@parametrize_with_checks(
    [*map(FewshotClassifier, ("ridge", "lda", "logistic", "protonet")), TIM],
    expected_failed_checks=expected_failed,
)
def test_it_keeps_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_what_is_expected_to_fail_does_fail():
    with pytest.raises(AssertionError):
        check_methods_subset_invariance("FewshotClassifier", TIM)


def test_the_example_runs():
    found = doctest.testmod(ours)
    assert found.attempted > 2 and found.failed == 0


@pytest.fixture
def features() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.array(["a", "b", "c"])[np.arange(60) % 3]
    return rng.normal(size=(60, 8)) + 3 * np.eye(3, 8)[np.arange(60) % 3], labels


@pytest.mark.slow
def test_it_goes_into_pipelines_and_searches(features):
    X, y = features
    assert cross_val_score(make_pipeline(StandardScaler(), FewshotClassifier("lda")), X, y).mean() > 0.9
    search = GridSearchCV(FewshotClassifier(), {"recipe": ["ridge", "protonet"], "set": [None]}, cv=3).fit(X, y)
    assert search.best_score_ > 0.9 and search.best_params_["recipe"] in ("ridge", "protonet")


def test_settings_reach_the_head_and_probabilities_are_tempered(features):
    X, y = features
    weak, strong = (FewshotClassifier(set={"method.strength": strength}).fit(X, y) for strength in (0.01, 1000.0))
    assert not np.allclose(weak.decision_function(X), strong.decision_function(X))
    assert clone(weak).get_params() == weak.get_params()
    # labels that mean nothing: the head knows its own rows, and held-out answers say how little that is worth
    guess = FewshotClassifier().fit(np.random.default_rng(1).normal(size=(30, 200)), np.arange(30) % 2)
    assert guess.predict_proba(np.random.default_rng(2).normal(size=(50, 200))).max() < 0.9


def test_a_recipe_that_moves_the_backbone_needs_pictures(features):
    with pytest.raises(ValueError, match="bitfit needs more than features"):
        FewshotClassifier("bitfit").fit(*features)
    with pytest.raises(fewshot.FewshotError, match="no recipe called"):
        FewshotClassifier("nothing").fit(*features)


# --- pictures --------------------------------------------------------------------------------------------------------

LABELS = np.array(["cat", "house"])


@pytest.fixture
def tiny(tmp_path, vit, monkeypatch) -> dict[str, object]:
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    save_file({name: values.contiguous().clone() for name, values in vit.source.items()}, tmp_path / "vit.safetensors")
    weights = tmp_path / "vit.safetensors"
    return {"backbone": "test_vit", "weights": weights, "image_size": 64, "offline": True}


def drawn(seed: int) -> tuple[list, np.ndarray]:
    labels = LABELS[np.arange(8) % 2]
    return [draw(label, 100 * seed + i, 64) for i, label in enumerate(labels)], labels


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ridge", "bitfit"])
def test_pictures_are_what_adapt_takes_them_for(recipe, tiny, tmp_path):
    pictures, labels = drawn(0)
    changes = {"method.tuning.optim.steps": 2} if recipe == "bitfit" else None
    estimator = FewshotClassifier(recipe, set=changes, **tiny).fit(pictures, labels)
    beside = fewshot.adapt((pictures, labels), recipe=recipe, set=changes, **tiny)
    asked, truth = drawn(1)
    assert estimator.classes_.tolist() == list(beside.classes)
    np.testing.assert_allclose(estimator.predict_proba(asked), beside.predict_proba(asked), atol=1e-5)
    assert estimator.predict(asked).tolist() == [row.label for row in beside.predict(asked)]
    assert estimator.score(asked, truth) == np.mean(estimator.predict(asked) == truth)
    arrays = np.stack([np.asarray(picture) for picture in asked])
    paths = [tmp_path / f"{i}.png" for i in range(len(asked))]
    for picture, path in zip(asked, paths, strict=True):
        picture.save(path)
    for form in (arrays, list(arrays), paths, [str(path) for path in paths], np.array(list(map(str, paths)))):
        np.testing.assert_allclose(estimator.predict_proba(form), estimator.predict_proba(asked), atol=1e-6)
    assert estimator.decision_function(asked).shape == (8,)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(asked), estimator.predict_proba(asked))


def test_what_cannot_be_answered_is_an_error_that_says_why(tiny, tmp_path):
    pictures, labels = drawn(0)
    estimator = FewshotClassifier(**tiny).fit(pictures, labels)
    (tmp_path / "no.jpg").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no\.jpg can't be read"):
        estimator.predict([tmp_path / "no.jpg"])
    with pytest.raises(ValueError, match="fitted on pictures"):
        estimator.predict(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="8 pictures and 7 labels"):
        FewshotClassifier(**tiny).fit(pictures, labels[:-1])
    with pytest.raises(ValueError, match="of one class"):
        FewshotClassifier(**tiny).fit(pictures, ["cat"] * 8)
