"""Fine-tuning on a support set: what every method that moves the backbone shares."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.adaptation import Images, Run, Support
from fewshot_cli.engine.data.diff_augment import AugmentDraws, diff_augment, draw
from fewshot_cli.engine.device import has_bfloat16, sent
from fewshot_cli.engine.head.linear import Head, class_means, cosine_head
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.names import SCALE
from fewshot_cli.engine.model.passes import Passes, features_in_chunks
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.folded import folded
from fewshot_cli.engine.train.objectives import HEAD, Objective, Part, class_vectors, prototypes
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.engine.train.text import Texts, scale_at_start
from fewshot_cli.engine.train.train import fit

MOST_HELD = 2**31  # bytes of pictures that a GPU holds while it trains on them


def first_vectors(backbone: Backbone, support: Support) -> Tensor:
    """The class vectors `(way, dim)` that training starts from.

    They are what the texts of the classes say, where a backbone reads texts, else the prototypes of what it sees.
    """
    if support.vectors is not None:
        return support.vectors
    return class_means(support.features, support.labels, support.way)


def steps_of(optim: Optim, support: Support, batch: int | None = None) -> int:
    """How many steps are made, in batches of this size, or of the settings'."""
    batch = batch or min(optim.batch or len(support), len(support))
    passes = math.ceil(optim.epochs * len(support) / batch)
    return max(optim.steps, passes, optim.steps_per_shot * math.ceil(len(support) / support.way))


def tune(
    backbone: Backbone,
    support: Support,
    start: Params,
    weights: Callable[[Params], Mapping[str, Tensor]],
    tuning: Tuning,
    run: Run,
    also: Sequence[Objective] = (),
    lr_scale: Mapping[str, float] = MappingProxyType({}),
    forget: Callable[[], None] | None = None,
) -> tuple[Params, Head]:
    """The trained parameters and the head that goes with them.

    `start` is what to train, under names of the method's own; `weights(params)` gives the backbone's weights that
    follow from it, differentiably. The loss is the objective of `tuning.head` plus those in `also`. A learned scale
    starts at the backbone's; or at the `SCALE` in `start`, and then it is among the trained parameters. The learning
    rate of a parameter is multiplied by `lr_scale` of the first pattern that is found in its name. `forget` is for a
    backbone whose passes draw random numbers, or leave something for an objective: it forgets what a pass that is not
    gone on with has left, and no pass is done again for its gradient.

    On a GPU with bfloat16 the backbone's passes are done in it, and nothing else.
    """
    support = support.in_order()
    rng = torch.Generator().manual_seed(run.seed)
    with_vectors = tuning.head != "prototypes"
    objectives = (_objective(tuning), *also)
    batches = _Batches(len(support), tuning.optim.batch if with_vectors else None, rng)
    trained_on = backbone if forget else folded(backbone, weights(start))
    steps = _Steps(trained_on, replace(support, images=_held(support, backbone)), weights, tuning, rng, forget)
    read = Texts.of(backbone, support) if tuning.head == "text" else None

    def loss(params: Params, step: int) -> Iterator[Tensor]:
        vectors = read.vectors(weights(params)) if read else None
        given = params if vectors is None else params | {HEAD: vectors.leaf}
        for features, part in steps.parts(batches.of(step), params):
            losses = [objective(features, given, part, rng) for objective in objectives]
            yield losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        if vectors is not None and vectors.made.requires_grad:
            yield vectors.rest()

    optim = tuning.optim.model_copy(update={"steps": steps_of(tuning.optim, support, batches.batch)})
    rates = {f"^{HEAD}$": tuning.head_lr, **lr_scale} if tuning.head == "cosine" else lr_scale
    along = start | {name: of for name, of in _of_head(backbone, support, tuning).items() if name not in start}
    trained = fit(loss, along, optim, run.watch, rates, smaller=lambda: steps.halve(batches.batch))
    vectors = trained[HEAD] if tuning.head == "cosine" else _vectors(backbone, support, weights, trained, read)
    scale = trained[SCALE].double().exp().item() if isinstance(tuning.scale, str) else tuning.scale
    return {name: trained[name] for name in start}, cosine_head(vectors, scale)


def _objective(tuning: Tuning) -> Objective:
    """What the head of these settings goes down."""
    if isinstance(tuning.scale, str):
        return class_vectors(None)
    return prototypes(tuning.scale) if tuning.head == "prototypes" else class_vectors(tuning.scale)


def _of_head(backbone: Backbone, support: Support, tuning: Tuning) -> Params:
    """What of the head is trained along, where it starts."""
    if isinstance(tuning.scale, str):
        return {SCALE: torch.tensor(math.log(scale_at_start(backbone, tuning)), device=backbone.device)}
    if tuning.head == "cosine":
        # Unit vectors, so that one learning rate means the same whatever the norm of a backbone's features.
        return {HEAD: F.normalize(first_vectors(backbone, support), dim=1)}
    return {}


@torch.no_grad()
def _vectors(
    backbone: Backbone,
    support: Support,
    weights: Callable[[Params], Mapping[str, Tensor]],
    trained: Params,
    read: Texts | None,
) -> Tensor:
    """The class vectors of the trained weights: what the texts give, or else the prototypes."""
    moved = weights(trained)
    if read:
        return read.vectors(moved).made
    return class_means(backbone.frozen_features(support.pictures(), moved), support.labels, support.way)


def _held(support: Support, backbone: Backbone) -> Images:
    """The pictures: on a GPU all of them, sent there once, unless they are more than it should hold."""
    size = 3 * math.prod(backbone.preprocessing.size)
    if backbone.device.type == "cpu" or len(support) * size > MOST_HELD:
        return support.images
    return sent(support.pictures(), backbone.device)


@dataclass(frozen=True)
class _Steps:
    """What a step of training sees of a batch: features of the images, in parts that fit into memory, or the cache."""

    backbone: Backbone
    support: Support
    weights: Callable[[Params], Mapping[str, Tensor]]
    tuning: Tuning
    rng: torch.Generator
    forget: Callable[[], None] | None

    def parts(self, indices: Tensor, params: Params) -> Iterator[tuple[Tensor, Part]]:
        """Features, and what else an objective may ask of the part of the batch that they are of."""
        if indices.device != self.support.labels.device:
            indices = sent(indices, self.support.labels.device)
        labels = self.support.labels[indices]
        plain = self.backbone.normalised(self.support.images[indices])
        draws = draw(plain, self.rng, self.tuning.augment) if self.tuning.augment else None
        if self.tuning.head != "prototypes":
            yield from self._of_vectors(diff_augment(plain, draws), labels, params)
        else:
            yield self._of_prototypes(plain, draws, labels, params)

    def _of_vectors(self, images: Tensor, labels: Tensor, params: Params) -> Iterator[tuple[Tensor, Part]]:
        """Features of the augmented images in chunks.

        The weights are made anew for each, since what they follow from is forgotten once a chunk is differentiated.
        """
        present = None
        if self.tuning.loss_classes == "batch":
            present = torch.zeros(self.support.way, dtype=torch.bool, device=labels.device).index_fill(0, labels, True)
        chunks = (torch.split(part, self.backbone.trained_chunk) for part in (images, labels))
        for chunk, of_chunk in zip(*chunks, strict=True):
            features = self._passes.features(chunk, dict(self.weights(params)))
            yield features, Part(of_chunk, self.support.way, len(labels), present=present)

    def _of_prototypes(
        self, plain: Tensor, draws: AugmentDraws | None, labels: Tensor, params: Params
    ) -> tuple[Tensor, Part]:
        """Features of the whole support set in one part, plain and augmented."""
        moved, chunk = dict(self.weights(params)), self._recomputed
        features = seen = features_in_chunks(self._passes, plain, moved, chunk)
        if draws is not None:  # else the augmented images are the plain ones, whose features are known
            features = features_in_chunks(self._passes, diff_augment(plain, draws), moved, chunk)
        return features, Part(labels, self.support.way, len(labels), seen)

    def halve(self, batch: int) -> None:
        """Has fewer images go through at once from now on. Raises FewshotError where that can't be."""
        if self.forget is not None:
            self.forget()
        backbone = self.backbone
        most = backbone.trained_chunk if self.tuning.head != "prototypes" else self._recomputed or batch
        is_whole = self.tuning.head == "prototypes" and self.forget is not None
        what = f"of {backbone.preprocessing.size[0]} pixels through {backbone.name}, with a gradient"
        backbone.trained_limit.halve(backbone.device, 1 if is_whole else min(most, batch), what)

    @property
    def _recomputed(self) -> int | None:
        """How many images at once have their pass done again for the gradient; None where it is kept of all."""
        if self.forget is not None or (
            self.backbone.device.type == "cpu" and self.backbone.trained_limit.pictures == math.inf
        ):
            return None
        return self.backbone.trained_chunk

    @property
    def _passes(self) -> Passes:
        device = self.backbone.device
        return Passes(self.backbone, torch.bfloat16 if has_bfloat16(device) else torch.float32)


class _Batches:
    """Indices of the support set: each image once before any comes twice, and none twice in a batch."""

    def __init__(self, size: int, batch: int | None, rng: torch.Generator) -> None:
        self.size, self.batch, self.rng = size, min(batch or size, size), rng
        self.left = torch.empty(0, dtype=torch.long)
        self.step, self.before = -1, (rng.get_state(), self.left)

    def of(self, step: int) -> Tensor:
        """Those of a step; asked for again, the same, with `rng` as it was then, so that the whole step repeats."""
        if step == self.step:
            self.rng.set_state(self.before[0])
            self.left = self.before[1]
        else:
            self.step, self.before = step, (self.rng.get_state(), self.left)
        return self.next()

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
