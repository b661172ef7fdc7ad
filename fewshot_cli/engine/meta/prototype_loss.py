"""Losses of dense meta-tuning: how wrong a backbone's weights are on a practice task, differentiable in the weights.

The bank, what meta-tuning trains, names parameters of the backbone, all or some, and the scale of the cosine:

    bank = start(backbone)
    prototype_loss(bank, backbone, task).loss.backward()
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.adaptation import Task
from fewshot_cli.engine.defaults import COSINE_SCALE
from fewshot_cli.engine.head.linear import class_means
from fewshot_cli.engine.meta.settings import InnerLoop
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.passes import Seeing, features_in_chunks
from fewshot_cli.engine.params import Params

SCALE = "cosine scale"  # a name that no parameter of a backbone has


class Outcome(NamedTuple):
    """How the queries of a task were answered: the mean cross-entropy, and the share of right answers in [0, 1]."""

    loss: Tensor
    accuracy: Tensor


def start(backbone: Backbone) -> Params:
    """The bank before meta-tuning: the backbone's own weights, and scale 10.

    P>M>F adds a bias to the cosine, which no answer and no gradient depends on, as it is the same for all classes.
    """
    scale = next(iter(backbone.params.values())).new_tensor(COSINE_SCALE)
    return backbone.params | {SCALE: scale}


def weights_of(bank: Params) -> Params:
    """The backbone's parameters in the bank, without the scale."""
    return {name: values for name, values in bank.items() if name != SCALE}


def prototype_loss(bank: Params, backbone: Seeing, task: Task, chunk: int | None = None) -> Outcome:
    """The loss on the queries of a head of prototypes: the M of P>M>F (Hu et al., 2022, arXiv:2204.07305).

    Class vectors are the mean features of the support set; the gradient flows through them as well as through the
    queries. `chunk` is for large tasks: see `features_in_chunks`. P>M>F trains with SGD with momentum 0.9, see
    `pmf_lr`.
    """
    return outcome(prototype_logits(bank, backbone, task, chunk), task)


def prototype_logits(bank: Params, backbone: Seeing, task: Task, chunk: int | None = None) -> Tensor:
    """Logits `(query, way)`: scale x cosine of feature and prototype, all with the bank's weights."""
    weights = weights_of(bank)
    # In one pass: what is computed of an image does not depend on the others, as a backbone is never in training mode.
    seen = features_in_chunks(backbone, torch.cat([task.support_images, task.query_images]), weights, chunk)
    support, query = torch.split(seen, [len(task.support_images), len(task.query_images)])
    return cosine_logits(bank, query, class_means(support, task.support_labels, task.way))


def fomaml_loss(bank: Params, backbone: Seeing, task: Task, inner: InnerLoop, chunk: int | None = None) -> Outcome:
    """The loss on the queries after a few steps on the support set, with the gradient of first order.

    MAML's first-order variant (Finn et al., 2017, arXiv:1703.03400): the gradient at the adapted weights is taken for
    that at the bank's. The head starts at the prototypes, as in Proto-MAML (Triantafillou et al., 2020,
    arXiv:1903.03096), so that a task may have any number of classes, and the gradient flows into them too. With no
    inner step this is `prototype_loss`.

    Differs from both: logits are cosines, whose scale stays as it is in the inner steps; class vectors have length 1,
    so that one learning rate means the same for every backbone. One step at 1e-3 is what SMAT takes.
    """
    return outcome(fomaml_logits(bank, backbone, task, inner, chunk), task)


def fomaml_logits(bank: Params, backbone: Seeing, task: Task, inner: InnerLoop, chunk: int | None = None) -> Tensor:
    """Logits `(query, way)` of the weights and class vectors that the inner steps lead to."""
    weights = weights_of(bank)
    fixed = {SCALE: bank[SCALE].detach()}
    support = features_in_chunks(backbone, task.support_images, weights, chunk)
    prototypes = F.normalize(class_means(support, task.support_labels, task.way), dim=1)

    def support_loss(weights: Params, vectors: Tensor) -> Tensor:
        seen = features_in_chunks(backbone, task.support_images, weights, chunk)
        return F.cross_entropy(cosine_logits(fixed, seen, vectors), task.support_labels)

    weights, vectors = descended(support_loss, weights, prototypes, inner)
    return cosine_logits(bank, features_in_chunks(backbone, task.query_images, weights, chunk), vectors)


HeadLoss: TypeAlias = Callable[[Params, Tensor], Tensor]


def descended(loss: HeadLoss, weights: Params, vectors: Tensor, inner: InnerLoop) -> tuple[Params, Tensor]:
    """Weights and class vectors after gradient descent on `loss(weights, vectors)`.

    They are what they started from plus a constant: to first order, a gradient reaches the start unchanged. Works
    within `torch.no_grad()` too, where a bank is only tested.
    """
    changes, turned = {name: torch.zeros_like(values) for name, values in weights.items()}, torch.zeros_like(vectors)
    for _ in range(inner.steps):
        with torch.enable_grad():
            here = {name: (values.detach() + changes[name]).requires_grad_() for name, values in weights.items()}
            there = (vectors.detach() + turned).requires_grad_()
            wanted = [*here.values(), there]
            gradients = torch.autograd.grad(loss(here, there), wanted, materialize_grads=True)
        *of_weights, of_vectors = gradients
        changes = {name: change - inner.lr * g for (name, change), g in zip(changes.items(), of_weights, strict=True)}
        turned = turned - inner.lr * inner.head_lr * of_vectors
    return {name: values + changes[name] for name, values in weights.items()}, vectors + turned


def cosine_logits(bank: Mapping[str, Tensor], features: Tensor, vectors: Tensor) -> Tensor:
    """Logits `(n, way)` of features `(n, dim)` and class vectors `(way, dim)`: scale x cosine."""
    return bank[SCALE] * (F.normalize(features, dim=1) @ F.normalize(vectors, dim=1).T)


def outcome(logits: Tensor, task: Task) -> Outcome:
    """How good logits `(query, way)` are."""
    accuracy = (logits.detach().argmax(1) == task.query_labels).float().mean()
    return Outcome(F.cross_entropy(logits, task.query_labels), accuracy)
