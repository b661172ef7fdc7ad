"""A model with its numbers rounded as its file is to keep them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Support
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.thresholds import above
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.model import Model
from fewshot_cli.formats.delta.file import HeadValues, any_head_as_stored, head_as_stored
from fewshot_cli.formats.delta.head import narrowest_head
from fewshot_cli.formats.delta.rounding import Values


@dataclass(frozen=True)
class Rounded:
    """A model on its base as a file is to keep it: all but the head in `values` already.

    `live` and `logits` `(support, way)` are its answers on the support set before rounding and after; `head` is how the
    file keeps the head. With `thresholds`, one for each class, an image may have several labels.
    """

    base: Backbone
    adapted: Adapted
    values: Values
    head: HeadValues
    live: Tensor
    logits: Tensor
    thresholds: tuple[float, ...] | None = None

    def labels(self, logits: Tensor) -> Tensor:
        """The labels `(n,)` that the logits `(n, way)` say, with thresholds whether an image has each, `(n, way)`."""
        if self.thresholds is None:
            return logits.argmax(1)
        return above(logits.double().sigmoid(), self.thresholds)


def rounded(base: Backbone, adapted: Adapted, live: Tensor, values: Values, support: Support) -> Rounded:
    """The model, of which all but the head is rounded, with a head as narrow as makes no difference.

    The head is exact where `values` are; the support set of a transductive one is always float16.
    """
    if isinstance(adapted.head, TransductiveHead):
        narrow = replace(adapted, head=any_head_as_stored(adapted.head, "float16"))
        return Rounded(base, adapted, values, "float16", live, Model(base, narrow).logits_of(support))
    if values == "float32":
        return Rounded(base, adapted, values, "float32", live, live)
    features = Model(base, adapted).features_of(support)
    kind = narrowest_head(adapted.head, features)
    narrow = replace(adapted, head=any_head_as_stored(adapted.head, kind))
    return Rounded(base, adapted, values, kind, live, Model(base, narrow).answers(features))


def rounded_with_thresholds(
    base: Backbone, head: Head, thresholds: tuple[float, ...], exact: bool, support: Support
) -> Rounded:
    """The model of several labels, its head in float16 where that changes no label, unless it is to be `exact`."""
    live = head.logits(support.features)
    whole = Rounded(base, Adapted({}, head), "float32" if exact else "float16", "float32", live, live, thresholds)
    if exact:
        return whole
    half = replace(whole, head="float16", logits=head_as_stored(head, "float16").logits(support.features))
    return half if torch.equal(half.labels(half.logits), half.labels(live)) else whole
