"""What training by a recipe costs here, from a few steps on pictures of noise."""

import time
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch

from fewshot_cli.engine.adaptation import Adapted, Run, Support, Watch, unwatched
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.train.fine_tune import steps_of
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import Learner, Method, MoveThenHead

STEPS, IMAGES = 3, 8  # of the trial
RATED = 2
"""Frozen passes of each image in the estimate of accuracy: left out, once as learned and once as stored."""


@dataclass(frozen=True)
class TrainingCost:
    """Seconds of one training besides its steps, of one image in a step, and of one image's frozen pass."""

    optim: Optim
    fixed: float
    image: float
    frozen: float

    def of_one(self, support: Support) -> float:
        """The seconds of training on so many images."""
        batch = min(self.optim.batch or len(support), len(support))
        return self.fixed + self.image * batch * steps_of(self.optim, support)

    def with_estimate(self, support: Support, folds: int) -> float:
        """The seconds of training on all images, and on all but one fold for each, with answers about that fold."""
        most = int(torch.bincount(support.labels, minlength=support.way).max())
        folds = min(folds, most) if most > 1 else 0
        if folds < 2:
            return self.of_one(support)
        left = [len(support) - len(range(fold, len(support), folds)) for fold in range(folds)]
        in_folds = sum(self.of_one(support.subset(torch.arange(count))) for count in left)
        return self.of_one(support) + in_folds + RATED * self.frozen * len(support)


def training_seconds(learner: Learner, backbone: Backbone, support: Support, folds: int) -> float:
    """About how long training and its estimate in folds take here."""
    return training_cost(learner, backbone, support).with_estimate(support, folds)


def trained_by(learner: Learner) -> Tuning | None:
    """The settings of the loop that the recipe trains by; None for one that has no such loop."""
    method = learner.method if isinstance(learner, MoveThenHead) else learner
    tuning = getattr(method, "tuning", None)
    return tuning if isinstance(tuning, Tuning) else None


def training_cost(learner: Learner, backbone: Backbone, support: Support) -> TrainingCost:
    """The cost on this device, where images are like those of the support set, of which none is looked at."""
    tuning = trained_by(learner)
    if tuning is None:
        raise FewshotError("What this recipe costs can't be told beforehand: it does not train by `tuning`.")
    noise = _noise(backbone, support)
    backbone.frozen_features(noise.pictures())  # what is loaded on first use was so when the folder was looked at
    begin = time.perf_counter()
    backbone.frozen_features(noise.pictures())
    frozen = (time.perf_counter() - begin) / len(noise)
    ticks: list[float] = []
    begin = time.perf_counter()
    trial(learner, backbone, support, STEPS, lambda *_: ticks.append(time.perf_counter()))
    whole = time.perf_counter() - begin
    step = median(later - sooner for sooner, later in pairwise(ticks)) if ticks[2:] else 0.0
    step = step or whole / STEPS
    return TrainingCost(tuning.optim, max(0.0, whole - STEPS * step), step / len(noise), frozen)


def trial(learner: Learner, backbone: Backbone, support: Support, steps: int, watch: Watch = unwatched) -> Adapted:
    """What so many steps on a few pictures of noise make of the backbone."""
    return _short(learner, steps).adapt(backbone, _noise(backbone, support), Run(0, watch))


def _short(learner: Learner, steps: int) -> Learner:
    """The same with so many steps, whatever the support set."""
    if isinstance(learner, MoveThenHead):
        found = _short(learner.method, steps)
        assert isinstance(found, Method)
        return MoveThenHead(found, learner.then)
    tuning = trained_by(learner)
    assert isinstance(learner, Method)
    assert tuning is not None
    optim = tuning.optim.model_copy(update={"steps": steps, "epochs": 0.0, "steps_per_shot": 0})
    return learner.model_copy(update={"tuning": tuning.model_copy(update={"optim": optim})})


def _noise(backbone: Backbone, support: Support) -> Support:
    """A small task of noise, with an image of each of its classes, and features of the support set."""
    rng = torch.Generator().manual_seed(0)
    size = (IMAGES, 3, *backbone.preprocessing.size)
    pictures = torch.randint(256, size, dtype=torch.uint8, generator=rng)
    way = min(support.way, IMAGES)
    labels = torch.arange(IMAGES, device=support.labels.device) % way
    rows = torch.arange(IMAGES) % len(support)
    return Support(pictures, labels, support.features[rows], way)
