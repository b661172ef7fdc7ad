"""A classifier for scikit-learn's pipelines, searches and cross-validation: on arrays of features, or on pictures."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from fewshot_cli.api.arguments import AnyPath, Settings, recipe_of
from fewshot_cli.api.classifier import Classifier
from fewshot_cli.api.functions import adapt
from fewshot_cli.engine.adaptation import FittedHead
from fewshot_cli.errors import FewshotError
from fewshot_cli.jobs.classify.held_out import HeldOut, left_out_one_by_one, sharpening_of
from fewshot_cli.methods.base import HeadMethod

Floats = npt.NDArray[np.float64]


class BadInput(FewshotError, ValueError):
    """A FewshotError that is a ValueError too, which scikit-learn and its callers look for."""


class FewshotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A recipe as an estimator of scikit-learn.

    On an array of features `(n, dim)` it fits the recipe's head, which must leave the backbone as it is; on pictures it
    adapts the backbone as the recipe says. Pictures are an array `(n, height, width, 3)` of uint8, or a list of arrays,
    paths or Pillow's pictures. The parameters are those of `fewshot_cli.adapt`; all but `recipe` and `set` are of
    pictures and do nothing on features.

    Probabilities of heads in closed form are tempered by leave-one-out answers, those of others on features are the
    head's own. A transductive head answers from all rows at once.

    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> features, labels = load_wine(return_X_y=True)
    >>> bool(cross_val_score(FewshotClassifier("lda"), features, labels).mean() > 0.9)
    True
    """

    def __init__(
        self,
        recipe: AnyPath = "ridge",
        *,
        set: Settings | None = None,
        backbone: str | None = None,
        weights: AnyPath | None = None,
        image_size: int | None = None,
        device: str = "auto",
        seed: int = 0,
        offline: bool = False,
        no_cache: bool = False,
    ) -> None:
        self.recipe = recipe
        self.set = set
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.device = device
        self.seed = seed
        self.offline = offline
        self.no_cache = no_cache

    def fit(self, X: Any, y: Any) -> "FewshotClassifier":
        """Learns from the rows of X and their labels y. Raises ValueError where there are fewer than two classes."""
        if are_pictures(X):
            self.classes_, labels = _classes(column_or_1d(y, warn=True))
            self._check_lengths(X, labels)
            self.model_: _OnPictures | _OnFeatures = self._on_pictures(X, labels)
        else:
            X, y = validate_data(self, X, y, dtype=np.float64)
            self.classes_, labels = _classes(y)
            self.model_ = self._on_features(X, labels)
        return self

    def decision_function(self, X: Any) -> Floats:
        """Scores `(n, classes)`, of which the highest is the answer; for two classes `(n,)`, above 0 for the second."""
        scores = self._logits(X)
        return scores[:, 1] - scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: Any) -> Floats:
        """The probability of each class `(n, classes)`, in the order of `classes_`."""
        scores = self._logits(X)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        found: Floats = shares / shares.sum(axis=1, keepdims=True)
        return found

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The likeliest class of each row."""
        answers = self._logits(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[answers]
        return labels

    def _logits(self, X: Any) -> Floats:
        check_is_fitted(self)
        if isinstance(self.model_, _OnPictures):
            if not are_pictures(X):
                raise BadInput("This classifier was fitted on pictures, and X is none.", "Give pictures.")
            return self.model_.logits(X)
        return self.model_.logits(validate_data(self, X, dtype=np.float64, reset=False))

    def _on_features(self, X: Floats, labels: npt.NDArray[np.int64]) -> "_OnFeatures":
        learner = recipe_of(self.recipe, self.set, None, None, None, None).learner
        method = learner.head_only
        if method is None or method.needs_text:
            raise BadInput(
                f"The recipe {self.recipe} needs more than features.",
                "Give pictures, or a recipe of a head alone: ridge, lda, logistic or protonet.",
            )
        features, of_class, way = torch.tensor(X), torch.tensor(labels), len(self.classes_)
        return _OnFeatures(_tempered(method, features, of_class, way))

    def _on_pictures(self, X: Any, labels: npt.NDArray[np.int64]) -> "_OnPictures":
        width = len(str(len(self.classes_)))  # names of classes, in the order of their numbers
        names = [f"{label:0{width}}" for label in labels.tolist()]
        classifier = adapt(
            (list(X), names),
            recipe=self.recipe,
            set=self.set,
            backbone=self.backbone,
            weights=self.weights,
            image_size=self.image_size,
            device=self.device,
            seed=self.seed,
            offline=self.offline,
            no_cache=self.no_cache,
        )
        return _OnPictures(classifier)

    def _check_lengths(self, X: Any, labels: Sequence[int] | npt.NDArray[np.int64]) -> None:
        if len(X) != len(labels):
            raise BadInput(f"There are {len(X)} pictures and {len(labels)} labels.", "Give one label a picture.")


@dataclass(frozen=True)
class _OnFeatures:
    """A head on rows of features."""

    head: FittedHead

    def logits(self, X: Floats) -> Floats:
        found: Floats = self.head.logits(torch.tensor(X)).double().numpy()
        return found


@dataclass(frozen=True)
class _OnPictures:
    """A classifier whose classes are numbers, in their order."""

    classifier: Classifier

    def logits(self, X: Any) -> Floats:
        probabilities = self.classifier.predict_proba(list(X)).astype(np.float64)
        if np.isnan(probabilities).any():
            place = int(np.isnan(probabilities).any(axis=1).argmax())
            raise BadInput(f"The picture {X[place]} can't be read.", "Leave it out; `fewshot doctor` says why.")
        logits: Floats = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
        return logits


def are_pictures(X: Any) -> bool:
    """Whether X is pictures: an array `(n, height, width, 3)`, or a list of paths, Pillow's pictures or arrays."""
    if isinstance(X, np.ndarray) and X.dtype != object and X.dtype.kind != "U":
        return X.ndim == 4
    if not isinstance(X, Sequence | np.ndarray) or isinstance(X, str) or not len(X):
        return False
    first = X[0]
    if isinstance(first, np.ndarray):
        return first.ndim >= 2
    return isinstance(first, str | os.PathLike | Image.Image)


def _classes(y: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The classes, sorted, and the number of each label's. Raises ValueError for less than two."""
    check_classification_targets(y)
    classes, labels = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise BadInput("All labels are of one class; telling apart takes two.", "Add rows of a second class.")
    return classes, labels.astype(np.int64)


def _tempered(method: HeadMethod, features: torch.Tensor, labels: torch.Tensor, way: int) -> FittedHead:
    """The head, where it is a formula with the temperature that leave-one-out answers ask for."""
    head = method.head(features, labels, way)
    if method.closed_form is None:
        return head
    asked = left_out_one_by_one(method.closed_form, features, labels, way)
    return head.sharpened(sharpening_of(asked, method, features.shape[1])) if isinstance(asked, HeldOut) else head
