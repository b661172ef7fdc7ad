"""One delta and one head from those of several users on the same base, and where they disagree.

A delta is what the literature calls a task vector. Each rule works parameter by parameter on the values that any of the
deltas changes; one that a delta does not name it leaves as it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fewshot_cli.engine.delta.change import Change, Delta, LowRank, Sparse, all_values, scaled, smaller
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.rng import Draws

CONTRAST = 0.1
"""Of the typical length of a head's rows: how long their mean is at most where they tell classes apart only."""


def total(deltas: Sequence[Delta]) -> dict[str, Change]:
    """The sum of the deltas, every value rounded once.

    What one of them alone changes stays as it is, to the bit; so deltas that change different weights add up exactly
    and in any order. Changes of low rank stay so where that takes fewer numbers.
    """
    return _by_parameter(deltas, _sum_of)


def ties(deltas: Sequence[Delta], density: float) -> dict[str, Change]:
    """The deltas by TIES-merging (Yadav et al., 2023, arXiv:2306.01708): trimmed, signs elected, the agreeing averaged.

    Of each delta the share `density` of its values that are largest is kept; of every weight the sign with the larger
    sum of magnitudes is elected; the result is the mean of the values of that sign. The paper trims to a share of all
    weights, which is the same for a dense delta; here it is a share of those that the delta changes, as a sparse one
    would else never be trimmed. Where magnitudes cancel exactly the weight stays as it is; the released code takes the
    sign that most weights have.
    """
    return _by_parameter([trimmed(delta, density) for delta in deltas], _elected)


def dare(deltas: Sequence[Delta], density: float, seed: int, names: Sequence[str]) -> dict[str, Change]:
    """The sum of the deltas after DARE (Yu et al., 2024, arXiv:2311.03099): most values dropped, the rest enlarged.

    Each value of a delta is kept with probability `density` (the paper's 1 - p) and divided by it. Only values that are
    not 0 are drawn for. The seed and a delta's name decide its draws, whatever the others are and in whatever order.
    """
    return total([thinned(delta, density, seed, name) for delta, name in zip(deltas, names, strict=True)])


def trimmed(delta: Delta, density: float) -> dict[str, Change]:
    """The delta with the share `density` of its values, the largest over all parameters; of equals at the edge all."""
    magnitudes = torch.cat([torch.empty(0), *(_given(change).abs().cpu() for change in delta.values())])
    magnitudes = magnitudes[magnitudes > 0]
    if density >= 1 or len(magnitudes) == 0:
        return dict(delta)
    kept = max(1, round(density * len(magnitudes)))
    least = float(magnitudes.kthvalue(len(magnitudes) - kept + 1).values)
    return {name: _only(change, _given(change).abs() >= least) for name, change in delta.items()}


def thinned(delta: Delta, density: float, seed: int, name: str) -> dict[str, Change]:
    """The delta with each of its values kept with probability `density` and divided by it, drawn by seed and name."""
    if density >= 1:
        return dict(delta)

    def drawn(parameter: str, change: Change) -> Change:
        kept = _given(change) != 0
        draws = Draws(seed, f"{name} {parameter}", 0).uniform(int(kept.sum()))
        return _only(change, kept.masked_scatter(kept, torch.from_numpy(draws < density).to(kept.device)))

    return scaled({parameter: drawn(parameter, change) for parameter, change in delta.items()}, 1 / density)


def _given(change: Change) -> Tensor:
    """The values that the change names, flat: of a sparse one those at its positions, of another all."""
    return change.values if isinstance(change, Sparse) else all_values(change).reshape(-1)


def _only(change: Change, kept: Tensor) -> Change:
    """The change with those of its values, as `_given` gives them, for which `kept` is true."""
    if isinstance(change, Sparse):
        return Sparse(change.shape, change.positions[kept], change.values[kept])
    return smaller(_given(change).where(kept, 0.0).reshape(change.shape))


@dataclass(frozen=True)
class Overlap:
    """How several deltas meet in one parameter.

    Of its weights, `alone` are changed by one delta and `shared` by more; in `agreeing` of the shared all changes have
    one sign. `mass` is the sum of the magnitudes of the shared ones' changes, `cancelled` what of it their sum lacks.
    """

    parameter: str
    alone: int
    shared: int
    agreeing: int
    mass: float
    cancelled: float


def overlaps(deltas: Sequence[Delta]) -> list[Overlap]:
    """How the deltas meet, for each parameter that any of them changes."""
    found = []
    for name in _names(deltas):
        _, values = aligned([delta[name] for delta in deltas if name in delta])
        changing = (values != 0).sum(0)
        shared = values[:, changing > 1].double()
        agreeing = (shared >= 0).all(0) | (shared <= 0).all(0)
        mass = float(shared.abs().sum())
        cancelled = mass - float(shared.sum(0).abs().sum())
        alone = int((changing == 1).sum())
        found.append(Overlap(name, alone, shared.shape[1], int(agreeing.sum()), mass, max(0.0, cancelled)))
    return found


def survival(delta: Delta, composed: Delta) -> float:
    """How much of the delta is left in the composed one: its length along the delta, relative to the delta's.

    1 where nothing was lost, 0 where all was, more where others push the same way; 1 of a delta that changes nothing.
    """
    along = length = 0.0
    for name, change in delta.items():
        _, values = aligned([change, composed[name]] if name in composed else [change])
        own = values[0].double()
        length += float(own.square().sum())
        along += float((own * values[1].double()).sum()) if len(values) > 1 else 0.0
    return along / length if length else 1.0


def aligned(changes: Sequence[Change]) -> tuple[Tensor | None, Tensor]:
    """The values `(changes, k)` of changes of one parameter at the flat, rising positions `(k,)` that any of them has.

    The positions are None where all of the parameter's values are given.
    """
    if not all(isinstance(change, Sparse) for change in changes):
        return None, torch.stack([all_values(change).reshape(-1) for change in changes])
    few = [change for change in changes if isinstance(change, Sparse)]
    positions = torch.unique_consecutive(torch.cat([change.positions for change in few]).sort().values)
    values = few[0].values.new_zeros(len(few), len(positions))
    for row, change in zip(values, few, strict=True):
        row[torch.searchsorted(positions, change.positions)] = change.values
    return positions, values


def _by_parameter(deltas: Sequence[Delta], rule: Callable[[Sequence[Change]], Change]) -> dict[str, Change]:
    """The changes by the rule where there are several, as they are where there is one; without those of nothing."""
    found: dict[str, Change] = {}
    for name in _names(deltas):
        changes = [delta[name] for delta in deltas if name in delta]
        change = rule(changes) if len(changes) > 1 else changes[0]
        if not isinstance(change, Sparse) or len(change.positions):
            found[name] = change
    return found


def _names(deltas: Sequence[Delta]) -> list[str]:
    """The parameters that any of the deltas changes, in the order in which they first come."""
    return list(dict.fromkeys(name for delta in deltas for name in delta))


def _sum_of(changes: Sequence[Change]) -> Change:
    low = [change for change in changes if isinstance(change, LowRank)]
    if len(low) == len(changes):
        left, right = torch.cat([change.left for change in low], 1), torch.cat([change.right for change in low])
        if left.numel() + right.numel() < math.prod(low[0].shape):
            return LowRank(low[0].shape, left, right)
    positions, values = aligned(changes)
    return _change(changes[0].shape, positions, values.double().sum(0).float())


def _elected(changes: Sequence[Change]) -> Change:
    positions, values = aligned(changes)
    signs = values.double().sum(0).sign()
    agreeing = (values.sign() == signs) & (values != 0)
    sums = values.double().where(agreeing, 0.0).sum(0)
    return _change(changes[0].shape, positions, (sums / agreeing.sum(0).clamp(min=1)).float())


def _change(shape: tuple[int, ...], positions: Tensor | None, values: Tensor) -> Change:
    """The change by flat values, all of them or those at the positions, without the zeros."""
    if positions is None:
        return smaller(values.reshape(shape))
    left = values != 0
    return Sparse(shape, positions[left], values[left])


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
