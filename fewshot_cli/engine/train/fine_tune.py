"""Fine-tuning on a support set: what every method that moves the backbone shares."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.diff_augment import diff_augment, draw
from fewshot_cli.engine.head.linear import Head, class_means, cosine_head
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.objectives import HEAD, Objective, Part, class_vectors, prototypes
from fewshot_cli.engine.train.settings import Tuning
from fewshot_cli.engine.train.train import fit


def first_vectors(backbone: Backbone, support: Support) -> Tensor:
    """The class vectors `(way, dim)` that training starts from: the prototypes of what the backbone sees as it is."""
    return class_means(support.features, support.labels, support.way)


def tune(
    backbone: Backbone,
    support: Support,
    start: Params,
    weights: Callable[[Params], Mapping[str, Tensor]],
    tuning: Tuning,
    run: Run,
    also: Sequence[Objective] = (),
    lr_scale: Mapping[str, float] = MappingProxyType({}),
) -> tuple[Params, Head]:
    """The trained parameters and the head that goes with them.

    `start` is what to train, under names of the method's own; `weights(params)` gives the backbone's weights that
    follow from it, differentiably. The loss is the objective of `tuning.head` plus those in `also`. The learning rate
    of a parameter is multiplied by `lr_scale` of the first pattern that is found in its name.
    """
    support = support.in_order()
    rng = torch.Generator().manual_seed(run.seed)
    with_vectors = tuning.head == "cosine"
    batches = _Batches(len(support), tuning.optim.batch if with_vectors else None, rng)
    objectives = (class_vectors(tuning.scale) if with_vectors else prototypes(tuning.scale), *also)
    parts = _parts_of_vectors if with_vectors else _parts_of_prototypes

    def loss(params: Params, step: int) -> Iterator[Tensor]:
        for features, part in parts(backbone, support, batches.next(), lambda: weights(params), tuning, rng):
            losses = [objective(features, params, part, rng) for objective in objectives]
            yield losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    passes = math.ceil(tuning.optim.epochs * len(support) / batches.batch)
    optim = tuning.optim.model_copy(update={"steps": max(tuning.optim.steps, passes)})
    if with_vectors:
        # Unit vectors, so that one learning rate means the same whatever the norm of a backbone's features.
        vectors = F.normalize(first_vectors(backbone, support), dim=1)
        rates = {f"^{HEAD}$": tuning.head_lr, **lr_scale}
        trained = fit(loss, start | {HEAD: vectors}, optim, run.watch, rates)
        return trained, cosine_head(trained.pop(HEAD), tuning.scale)
    trained = fit(loss, start, optim, run.watch, lr_scale)
    with torch.no_grad():
        moved = weights(trained)
    features = backbone.frozen_features(support.pictures(), moved)
    return trained, cosine_head(class_means(features, support.labels, support.way), tuning.scale)


def _parts_of_vectors(
    backbone: Backbone,
    support: Support,
    indices: Tensor,
    weights: Callable[[], Mapping[str, Tensor]],
    tuning: Tuning,
    rng: torch.Generator,
) -> Iterator[tuple[Tensor, Part]]:
    """Features of augmented images in chunks that fit into memory, or the cache.

    The weights are made anew for each, since what they follow from is forgotten once a chunk is differentiated.
    """
    plain = backbone.normalised(support.images[indices])
    augmented = diff_augment(plain, draw(plain, rng, tuning.augment)) if tuning.augment else plain
    chunks = (torch.split(part, backbone.chunk) for part in (augmented, support.labels[indices]))
    for chunk, labels in zip(*chunks, strict=True):
        yield backbone.features(chunk, weights()), Part(labels, support.way, len(indices))


def _parts_of_prototypes(
    backbone: Backbone,
    support: Support,
    indices: Tensor,
    weights: Callable[[], Mapping[str, Tensor]],
    tuning: Tuning,
    rng: torch.Generator,
) -> Iterator[tuple[Tensor, Part]]:
    """Features of the whole support set at once, plain and augmented."""
    plain = backbone.normalised(support.images[indices])
    moved = weights()
    features = seen = backbone.features(plain, moved)
    draws = draw(plain, rng, tuning.augment) if tuning.augment else None
    if draws is not None:  # else the augmented images are the plain ones, whose features are known
        features = backbone.features(diff_augment(plain, draws), moved)
    yield features, Part(support.labels[indices], support.way, len(indices), seen)


class _Batches:
    """Indices of the support set: each image once before any comes twice, and none twice in a batch."""

    def __init__(self, size: int, batch: int | None, rng: torch.Generator) -> None:
        self.size, self.batch, self.rng = size, min(batch or size, size), rng
        self.left = torch.empty(0, dtype=torch.long)

    def next(self) -> Tensor:
        if self.batch == self.size:
            return torch.arange(self.size)
        if len(self.left) < self.batch:
            self.left = torch.cat([self.left, self._another_pass(self.batch - len(self.left))])
        indices, self.left = self.left[: self.batch], self.left[self.batch :]
        return indices

    def _another_pass(self, first: int) -> Tensor:
        """All images in random order; the `first` of them are none of those left, with which they share a batch."""
        order = torch.randperm(self.size, generator=self.rng)
        chosen = (~torch.isin(order, self.left)).nonzero().squeeze(1)[:first]
        later = torch.ones(self.size, dtype=torch.bool).index_fill(0, chosen, False)
        return torch.cat([order[chosen], order[later]])
