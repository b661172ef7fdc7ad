"""Masks: which values of a backbone a sparse method trains, as flat positions by parameter name."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fewshot_cli.engine.delta.change import Sparse
from fewshot_cli.engine.params import Params, total_size
from fewshot_cli.engine.rng import Draws

Positions = dict[str, Tensor]


def largest_anywhere(scores: Params, density: float) -> Positions:
    """The `ceil(density * all)` largest scores over all parameters together; a parameter may get none."""
    count = math.ceil(density * total_size(scores))
    flat = torch.cat([score.flatten() for score in scores.values()])
    chosen = flat.topk(count).indices.sort().values
    positions: Positions = {}
    first = 0
    for name, score in scores.items():
        inside = chosen[(chosen >= first) & (chosen < first + score.numel())] - first
        first += score.numel()
        if len(inside):
            positions[name] = inside
    return positions


def largest_in_each(scores: Params, density: float) -> Positions:
    """The `ceil(density * size)` largest scores of every parameter."""
    return {name: largest(score, math.ceil(density * score.numel())) for name, score in scores.items()}


def largest(score: Tensor, count: int) -> Tensor:
    """Flat positions `(count,)`, rising, of the largest values."""
    return score.flatten().topk(count).indices.sort().values


def random_positions(seed: int, name: str, size: int, count: int) -> Tensor:
    """Flat positions `(count,)`, rising, drawn for the parameter `name`.

    They are the same wherever they are drawn again, so that a file needs the seed only.
    """
    return torch.from_numpy(Draws(seed, name, 0).subset(size, count))


def structured_positions(rows: int, columns: int, density: float) -> Tensor:
    """Flat positions of the main diagonal and every f-th row of a matrix, f so that they are about `density` of it.

    SHiRA-Struct (arXiv:2406.13175, appendix B): the rows have rank one each, the diagonal gives the change a high rank.
    """
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask.fill_diagonal_(True)
    diagonal = min(rows, columns)
    missing = density * rows * columns - diagonal
    if missing > 0:
        mask[:: round((rows * columns - diagonal) / missing)] = True
    return mask.flatten().nonzero().squeeze(1)


def sparse_changes(shapes: Mapping[str, Tensor], positions: Positions, values: Params) -> dict[str, Sparse]:
    """The delta that adds `values` at `positions`; `shapes` are the parameters it belongs to."""
    return {name: Sparse(tuple(shapes[name].shape), positions[name], values[name]) for name in positions}
