"""One head for the classes of several, and how far they agree on the classes that they share."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.head.linear import Head

CONTRAST = 0.1
"""Of the typical length of a head's rows: how long their mean is at most where they tell classes apart only."""


@dataclass(frozen=True)
class JoinedHead:
    """One head for the classes of several: `head`, its row i of `classes[i]`.

    `factors` are what the heads were multiplied by; `cosines` `(class, lowest)` the lowest cosine between the rows of a
    class that several heads know.
    """

    head: Head
    classes: tuple[str, ...]
    factors: tuple[float, ...]
    cosines: Mapping[str, float]


def joined(heads: Sequence[Head], classes: Sequence[Sequence[str]]) -> JoinedHead:
    """One head over all classes, sorted. All heads are on features of the same kind (`unit_norm`).

    Zeros are evened out, see `on_one_zero`, and so are temperatures: each head is multiplied so that the root mean
    square norm of its rows is the geometric mean of all heads', since one that is surer of itself would else outvote
    the others. A class of one head keeps its row; one of several gets the mean of the rows, and of the biases. On
    features of unit norm, where a row's norm is only a temperature, the mean row gets the rows' mean norm.
    """
    heads = on_one_zero(heads)
    factors = _even_factors([head.weight for head in heads])
    even = [head.sharpened(factor) for head, factor in zip(heads, factors, strict=True)]
    names = tuple(sorted({name for known in classes for name in known}))
    rows, biases, cosines = [], [], {}
    for name in names:
        places = [(head, list(known).index(name)) for head, known in zip(even, classes, strict=True) if name in known]
        weights = torch.stack([head.weight[row] for head, row in places])
        rows.append(_mean_row(weights, heads[0].unit_norm))
        biases.append(torch.stack([head.bias[row] for head, row in places]).double().mean(0).float())
        if len(places) > 1:
            directions = F.normalize(weights.double(), dim=1)
            cosines[name] = float((directions @ directions.T).min())
    return JoinedHead(Head(torch.stack(rows), torch.stack(biases), heads[0].unit_norm), names, factors, cosines)


def on_one_zero(heads: Sequence[Head]) -> list[Head]:
    """The heads with logits that can be held against each other.

    Adding the same number to all logits of an image changes none of a head's own answers, but those of several heads
    together. Ridge's logits add up to one number and those of logistic regression to none, whatever the image; those of
    prototypes and of LDA grow with the likeness to any class. Where a head of the first sort is among them, all have
    their mean taken off, weights and biases, so that 0 is what a head knows nothing of. Heads that are all of the
    second sort stay as they are: their likeness says which head knows the image.
    """
    if heads[0].unit_norm or not any(map(_is_contrast, heads)):
        return list(heads)
    return [_centred(head) for head in heads]


def _is_contrast(head: Head) -> bool:
    """Whether the rows of a head add up to nothing, but for what rounding in a file leaves."""
    rows = head.weight.double()
    typical = rows.square().sum(1).mean().sqrt()
    return bool(typical > 0) and bool(rows.mean(0).norm() <= CONTRAST * typical)


def _centred(head: Head) -> Head:
    weight, bias = head.weight.double(), head.bias.double()
    return replace(head, weight=(weight - weight.mean(0)).float(), bias=(bias - bias.mean()).float())


def _even_factors(weights: Sequence[Tensor]) -> tuple[float, ...]:
    """What to multiply matrices by so that the root mean square norms of their rows are equal; their product is 1."""
    norms = [float(weight.double().square().sum(1).mean().sqrt()) for weight in weights]
    if not all(norms):
        return (1.0,) * len(norms)
    logarithm = math.fsum(math.log(norm) for norm in norms) / len(norms)
    return tuple(math.exp(logarithm - math.log(norm)) for norm in norms)


def _mean_row(rows: Tensor, unit_norm: bool) -> Tensor:
    """The mean of rows `(n, dim)`; a single row as it is."""
    if len(rows) == 1:
        return rows[0]
    mean = rows.double().mean(0)
    if unit_norm:
        mean = F.normalize(mean, dim=0) * rows.double().norm(dim=1).mean()
    return mean.float()
