"""What the methods share that train single values of the backbone."""

import torch
import torch.nn.functional as F

from fewshot_cli.engine.adaptation import Moved, Run, Support
from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.delta.masks import Positions, sparse_changes
from fewshot_cli.engine.head.linear import cosine_head
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.params import Params
from fewshot_cli.engine.train.fine_tune import first_vectors, tune
from fewshot_cli.engine.train.settings import Tuning
from fewshot_cli.engine.train.text import Texts, scale_at_start


def tune_positions(
    backbone: Backbone, support: Support, base: Params, positions: Positions, tuning: Tuning, run: Run
) -> Moved:
    """The backbone with only the values at `positions` trained.

    What is trained is the change at these positions, starting at zero: no momentum and no weight decay can reach any
    other value, and decay pulls towards the pre-trained weight.
    """
    start = {name: base[name].new_zeros(len(chosen)) for name, chosen in positions.items()}
    chosen_base = {name: base[name] for name in positions}
    trained, head = tune(
        backbone,
        support,
        start,
        lambda params: merge(chosen_base, sparse_changes(base, positions, params)),
        tuning,
        run,
    )
    return Moved(sparse_changes(base, positions, trained), head)


def task_gradient(backbone: Backbone, support: Support, base: Params, tuning: Tuning) -> Params:
    """The gradient by each parameter in `base` of the mean cross-entropy on the plain images.

    The head is what training starts from, or the vectors of the classes' texts with their gradient (`head: text`).
    """
    support = support.in_order()
    weights = {name: values.detach().clone().requires_grad_() for name, values in base.items()}
    vectors = Texts.of(backbone, support).vectors(weights) if tuning.head == "text" else None
    start = first_vectors(backbone, support) if vectors is None else vectors.leaf
    for indices in torch.split(torch.arange(len(support)), backbone.chunk):
        features = backbone.features(backbone.normalised(support.images[indices]), weights)
        logits = cosine_head(start, scale_at_start(backbone, tuning)).logits(features)
        loss = F.cross_entropy(logits, support.labels[indices], reduction="sum") / len(support)
        loss.backward()  # type: ignore[no-untyped-call]
    if vectors is not None and vectors.made.requires_grad:
        vectors.rest().backward()  # type: ignore[no-untyped-call]
    return {
        name: values.new_zeros(()).expand_as(values) if values.grad is None else values.grad
        for name, values in weights.items()
    }
