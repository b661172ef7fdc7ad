"""Sparse MetA-Tuning (SMAT; Chen et al., 2024, ICML, OpenReview QhHMx51ir6): the loss of one practice task.

A bank is what meta-tuning learns: one delta on all weights of the backbone, sparse experts over it and a router that
mixes them for a task. On a task the mixed weights take one first-order step down the loss of the support set; the loss
is the query set's cross-entropy after that step, its distance from two teachers, and what keeps the experts sparse.

No pass is done twice at the same weights on the same images: prototypes and support logits share one, and the teacher's
step takes the gradient that the student's cross-entropy has anyway. See `SMATSettings` for what differs from the
published code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import grad
from torch.autograd.function import once_differentiable

from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.meta.featured_task import PADDING, FeaturedTask
from fewshot_cli.engine.meta.smat import gates as experts
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import IN_CHUNKS, GatePasses, interpolate, start_logits
from fewshot_cli.engine.meta.smat.router import Noise, Routing, is_state, power_iterated, route, start_router
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.params import Params

DELTA, LOGITS, MULTIPLIERS, ROUTER = "delta", "logits", "multipliers", "router."
"""The names in a bank: `(size,)`, `(experts, size)`, `(experts,)`, and what those of the router begin with."""

_ABSENT = -1e30  # the logit of a class that isn't there: probability 0, and unlike −∞ no 0 · ∞ in a KL divergence


@dataclass(frozen=True)
class SMATLoss:
    """The loss of a task and what was seen on the way to it.

    `total.backward()` gives the gradients of all that the bank trains. `parts` add up to it: query_ce, query_kd,
    lagrangian, sparsity and l2, detached. `accuracy` is the student's on the queries, and `sparsity` `(experts,)` the
    share of closed gates. `state` are the values of the bank that change without a gradient: see `write_state_`.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    accuracy: Tensor
    sparsity: Tensor
    routing: Routing
    state: Params


def start_bank(net: FlatBackbone, settings: SMATSettings, seed: int) -> Params:
    """A bank that changes nothing yet: the delta is 0."""
    rng = torch.Generator().manual_seed(seed)
    bank = {
        DELTA: torch.zeros(net.layout.size),
        LOGITS: start_logits(net.layout.size, settings.experts, rng),
        MULTIPLIERS: torch.zeros(settings.experts),
    }
    router = start_router(net.backbone.dim, settings.experts, seed)
    bank |= {f"{ROUTER}{name}": values for name, values in router.items()}
    return {name: values.to(net.base.device) for name, values in bank.items()}


def trained(bank: Params) -> Params:
    """What an optimiser may move: all but the state of the router's power iteration."""
    return {name: values for name, values in bank.items() if not is_state(name)}


def write_state_(bank: Params, state: Params) -> None:
    """Puts the state that a loss left into the bank, in place: after every loss, and before the optimiser's step."""
    with torch.no_grad():
        for name, values in state.items():
            bank[name].copy_(values)


def passed(bank: Params) -> Params:
    """The state that the loss of one more task at the same weights leaves, but for the multipliers, which any task
    resets alike: for a process that leaves the task to another."""
    return {f"{ROUTER}{name}": values for name, values in power_iterated(router_of(bank)).items()}


def router_of(bank: Params) -> Params:
    """The parameters of the bank's router, by their names in it."""
    return {name.removeprefix(ROUTER): values for name, values in bank.items() if name.startswith(ROUTER)}


def smat_loss(
    bank: Params,
    net: FlatBackbone,
    task: FeaturedTask,
    settings: SMATSettings,
    temperature: float | Tensor,
    rng: Noise | None = None,
    into: Tensor | None = None,
    passes: GatePasses = IN_CHUNKS,
) -> SMATLoss:
    """The loss of one task, differentiable in `trained(bank)`; `rng` samples the experts' weights.

    The logits of the gates must be in the range that `experts.clamp_logits_` keeps them in. Nothing waits for a GPU,
    unless `rng` is a generator. `into` `(experts, size)` is what the gradient of those logits is added to, where it is
    not to be a tensor of its own. `passes` do the work of the gates.
    """
    state = power_iterated(router_of(bank))
    routing = route(router_of(bank) | state, task.frozen_prototypes, temperature, settings.pool, rng, task.classes)
    merged = interpolate(net.base, bank[DELTA], bank[LOGITS], routing.weights, into=into, passes=passes)
    queries = _query_loss(net, merged.weights.detach(), task, settings)

    target, weights = settings.sparsity, routing.weights
    multipliers = experts.reset(bank[MULTIPLIERS], merged.sparsity, target)
    # The gradient is the unreset multipliers' own; the value is that after the reset.
    after_reset = bank[MULTIPLIERS] + (multipliers - bank[MULTIPLIERS]).detach()
    parts = {
        "query_ce": (1 - settings.kd) * queries.ce,
        "query_kd": settings.kd * queries.kd,
        "lagrangian": experts.constraint(after_reset, merged.sparsity, target, weights),
        "sparsity": experts.density_penalty(multipliers, merged.expected_l0, target, weights),
        "l2": settings.l2 * routing.logits.square().mean(),
    }
    total = torch.stack(list(parts.values())).sum() + _with_gradient(merged.weights, queries.gradient)
    return SMATLoss(
        total,
        {name: part.detach() for name, part in parts.items()},
        queries.accuracy,
        merged.sparsity,
        routing,
        {f"{ROUTER}{name}": values for name, values in state.items()} | {MULTIPLIERS: multipliers},
    )


@dataclass(frozen=True)
class _QueryLoss:
    """Cross-entropy and distillation, detached, and the gradient of their weighted sum at the merged weights."""

    ce: Tensor
    kd: Tensor
    accuracy: Tensor
    gradient: Tensor


def _query_loss(net: FlatBackbone, weights: Tensor, task: FeaturedTask, settings: SMATSettings) -> _QueryLoss:
    """θ' = θ − inner_lr ∇θ and h' = h − inner_lr ∇h + prototypes − stop(prototypes), then the queries under both.

    A step has slope 1 (first order), so the gradient at θ is that at θ', and that at h' through the prototypes.
    """
    absent, counted = ~task.classes, (task.query_labels != PADDING).to(weights.dtype)

    def logits(features: Tensor, head: Tensor) -> Tensor:
        return cosine_head(head, settings.scale).logits(features).masked_fill(absent, _ABSENT)

    theta = weights.requires_grad_()
    features = net.features(task.support_images, theta)
    prototypes = class_means(features, task.support_labels, task.way)
    head = prototypes.detach().requires_grad_()
    support_ce = F.cross_entropy(logits(features, head), task.support_labels, ignore_index=PADDING)
    adapted = _stepped((theta, head), grad(support_ce, (theta, head), retain_graph=True), settings.inner_lr)

    student = logits(net.features(task.query_images, adapted[0]), adapted[1])
    ce = F.cross_entropy(student, task.query_labels, ignore_index=PADDING)
    of_ce = grad(ce, adapted, retain_graph=settings.kd > 0)
    kd, of_query = ce.new_zeros(()), of_ce
    if settings.kd:
        with torch.no_grad():
            teacher = _stepped(adapted, of_ce, settings.teacher_lr)
            taught = logits(net.features(task.query_images, teacher[0]), teacher[1])
            pretrained = logits(task.query_features, task.frozen_prototypes)
        kd = distance(student, taught, counted, settings) + distance(student, pretrained, counted, settings)
        of_kd = grad(kd, adapted)
        of_query = tuple(torch.lerp(*both, settings.kd) for both in zip(of_ce, of_kd, strict=True))
    of_theta, of_head = of_query
    (through_prototypes,) = grad(prototypes, theta, of_head)
    accuracy = (student.argmax(1) == task.query_labels).sum() / counted.sum()
    return _QueryLoss(ce.detach(), kd.detach(), accuracy, of_theta + through_prototypes)


def _stepped(params: tuple[Tensor, ...], gradients: tuple[Tensor, ...], lr: float) -> tuple[Tensor, ...]:
    """New leaves one step of gradient descent on."""
    with torch.no_grad():
        moved = [torch.sub(values, slope, alpha=lr) for values, slope in zip(params, gradients, strict=True)]
    return tuple(values.requires_grad_() for values in moved)


def distance(student: Tensor, teacher: Tensor, counted: Tensor, settings: SMATSettings) -> Tensor:
    """½ T² KL of the softened answers `(queries, way)`, the mean over the queries by their weights `counted`."""
    t = settings.kd_temperature
    p, q = F.log_softmax(student / t, dim=1), F.log_softmax(teacher / t, dim=1)
    if settings.kd_direction == "teacher_student":
        p, q = q, p
    divergence = F.kl_div(q, p, reduction="none", log_target=True).sum(1)  # KL(p ‖ q)
    return 0.5 * t**2 * (divergence @ counted) / counted.sum()


def _with_gradient(at: Tensor, gradient: Tensor) -> Tensor:
    """A zero whose gradient at `at` is `gradient`: what was differentiated by hand takes its place in the graph."""
    return _Zero.apply(at, gradient)  # type: ignore[no-any-return]


class _Zero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, at: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return at.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_zero: Tensor) -> Any:
        return of_zero * ctx.saved_tensors[0], None
