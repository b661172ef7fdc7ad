"""Fine-tuning on a support set: what every method that moves the backbone shares."""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.augment import diff_augment, draw
from fewshot_cli.engine.backbones import Backbone
from fewshot_cli.engine.fit import fit
from fewshot_cli.engine.heads import Head, class_means, cosine_head
from fewshot_cli.engine.tuning_settings import Tuning
from fewshot_cli.engine.types import Params, Run, Support

HEAD = "class vectors"  # a name that no parameter of a backbone has


def tune(
    backbone: Backbone,
    support: Support,
    start: Params,
    weights: Callable[[Params], Mapping[str, Tensor]],
    tuning: Tuning,
    run: Run,
) -> tuple[Params, Head]:
    """The trained parameters and the head that goes with them.

    `start` is what to train, under names of the method's own; `weights(params)` gives the backbone's weights that
    follow from it, differentiably. The loss is the cross-entropy of scale x cosine of feature and class vector.
    """
    support = support.in_order()
    rng = torch.Generator().manual_seed(run.seed)
    batches = _Batches(len(support), tuning.optim.batch if tuning.head == "cosine" else None, rng)
    images = support.images

    def normalised(indices: Tensor) -> Tensor:
        return backbone.normalised(images[indices])

    def augmented(indices: Tensor) -> Tensor:
        plain = normalised(indices)
        return diff_augment(plain, draw(plain, rng, tuning.augment)) if tuning.augment else plain

    def cosine_loss(params: Params, step: int) -> Iterator[Tensor]:
        indices = batches.next()
        chunks = (torch.split(part, backbone.chunk) for part in (augmented(indices), support.labels[indices]))
        for chunk, labels in zip(*chunks, strict=True):
            features = F.normalize(backbone.features(chunk, weights(params)), dim=1)
            logits = tuning.scale * features @ F.normalize(params[HEAD], dim=1).T
            yield F.cross_entropy(logits, labels, reduction="sum") / len(indices)

    def prototype_loss(params: Params, step: int) -> Iterator[Tensor]:
        moved = weights(params)
        plain = normalised(batches.next())
        features = backbone.features(plain, moved)
        vectors = class_means(features, support.labels, support.way)
        draws = draw(plain, rng, tuning.augment) if tuning.augment else None
        if draws is not None:  # else the augmented images are the plain ones, whose features are known
            features = backbone.features(diff_augment(plain, draws), moved)
        yield F.cross_entropy(cosine_head(vectors, tuning.scale).logits(features), support.labels)

    passes = math.ceil(tuning.optim.epochs * len(support) / batches.batch)
    optim = tuning.optim.model_copy(update={"steps": max(tuning.optim.steps, passes)})
    prototypes = class_means(support.features, support.labels, support.way)
    if tuning.head == "cosine":
        # Unit vectors, so that one learning rate means the same whatever the norm of a backbone's features.
        trained = fit(
            cosine_loss, start | {HEAD: F.normalize(prototypes, dim=1)}, optim, run.watch, {HEAD: tuning.head_lr}
        )
        return trained, cosine_head(trained.pop(HEAD), tuning.scale)
    trained = fit(prototype_loss, start, optim, run.watch)
    with torch.no_grad():
        moved = weights(trained)
    features = backbone.frozen_features(images[torch.arange(len(support))], moved)
    return trained, cosine_head(class_means(features, support.labels, support.way), tuning.scale)


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
