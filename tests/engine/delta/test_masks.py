"""Where a sparse method may move values."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewshot_cli.engine.delta.change import Sparse
from fewshot_cli.engine.delta.masks import (
    largest,
    largest_anywhere,
    largest_in_each,
    random_positions,
    sparse_changes,
    structured_positions,
)


@pytest.fixture
def scores():
    rng = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(*shape, generator=rng) for name, shape in (("a", (7, 5)), ("b", (40,)), ("c", (3, 2, 2, 2)))
    }


@pytest.mark.parametrize("density", [1e-6, 0.013, 0.5, 1.0])
def test_the_largest_anywhere_are_those_of_one_global_ranking(scores, density):
    positions = largest_anywhere(scores, density)
    ranking = sorted(
        ((value, name, i) for name, score in scores.items() for i, value in enumerate(score.flatten().tolist())),
        reverse=True,
    )
    wanted = ranking[: math.ceil(density * 99)]
    assert {(name, i) for name, chosen in positions.items() for i in chosen.tolist()} == {(n, i) for _, n, i in wanted}
    assert all(len(chosen) > 0 for chosen in positions.values())  # a parameter that got none isn't named


@pytest.mark.parametrize("density", [1e-6, 0.1, 1.0])
def test_the_largest_in_each_take_their_share_of_every_parameter(scores, density):
    positions = largest_in_each(scores, density)
    assert positions.keys() == scores.keys()
    for name, chosen in positions.items():
        count = math.ceil(density * scores[name].numel())
        assert chosen.tolist() == sorted(scores[name].flatten().argsort(descending=True)[:count].tolist())


def test_positions_count_row_by_row_in_every_memory_format():
    score = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    channels_last = score.contiguous(memory_format=torch.channels_last)
    assert torch.equal(largest(score, 9), largest(channels_last, 9))


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 2**31), st.text(max_size=5))
def test_random_positions_are_distinct_rising_and_inside(size, count, seed, name):
    positions = random_positions(seed, name, size, min(size, count)).tolist()
    assert len(positions) == min(size, count)
    assert positions == sorted(set(positions))
    assert all(0 <= position < size for position in positions)
    assert positions == random_positions(seed, name, size, min(size, count)).tolist()


def test_random_positions_stay_what_they_are():
    """Files hold the seed only: another position would be another classifier."""
    assert random_positions(0, "a", 1000, 5).tolist() == [51, 94, 252, 626, 759]
    assert random_positions(3, "blocks.0.weight", 2**31, 3).tolist() == [864089225, 956750810, 1994254831]
    assert random_positions(0, "a", 10, 8).tolist() == [1, 3, 4, 5, 6, 7, 8, 9]


def test_every_position_is_as_likely_as_any_other_and_so_is_every_pair():
    drawn = torch.stack([torch.zeros(6).index_fill(0, random_positions(seed, "x", 6, 2), 1) for seed in range(6000)])
    together = drawn.T @ drawn
    assert torch.allclose(together.diagonal(), torch.full((6,), 2000.0), atol=170)
    assert torch.allclose(together[~torch.eye(6, dtype=torch.bool)], torch.full((30,), 400.0), atol=85)


def test_random_positions_of_two_parameters_have_nothing_in_common():
    one, other = (set(random_positions(0, name, 10_000, 1000).tolist()) for name in ("a", "b"))
    assert 60 < len(one & other) < 140


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.001, 1))
def test_structured_positions_are_the_diagonal_and_equally_spaced_rows(rows, columns, density):
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[structured_positions(rows, columns, density)] = True
    mask = mask.view(rows, columns)
    assert mask.diagonal().all()
    full = mask.all(1).nonzero().flatten()
    full = full[full % columns != 0] if columns == 1 else full  # a row of one value may be full by the diagonal alone
    assert len(full.diff().unique()) <= 1 or rows <= 2 or columns <= 1
    outside = mask.clone()
    outside.fill_diagonal_(False)
    assert (outside.any(1) == (outside.sum(1) >= columns - 1)).all() or columns == 1


@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (10, 90), (2, 2), (3, 3), (5, 1)])
def test_structured_positions_at_the_boundaries(shape):
    rows, columns = shape
    assert len(structured_positions(rows, columns, 1.0)) == rows * columns
    diagonal = [i * columns + i for i in range(min(rows, columns))]
    assert structured_positions(rows, columns, 1e-6).tolist() == diagonal


@pytest.mark.parametrize("density", [0.05, 0.1, 0.2])
def test_structured_positions_are_about_as_many_as_the_density_says(density):
    # Every f-th row with f whole: at most a factor (f + 1/2) / f off, and one row.
    count = len(structured_positions(200, 200, density))
    assert count == pytest.approx(density * 200 * 200, rel=0.1)


def test_the_largest_weights_are_the_published_wm_mask(golden):
    vectors, config = golden("shira")
    for layer in "abc":
        weight = vectors[f"base.{layer}.weight"]
        row, column = vectors[f"wm.{layer}.idx"]
        assert torch.equal(largest(weight.abs(), config["k"]), (row * weight.shape[1] + column).sort().values)


def test_sparse_changes_take_the_shapes_of_the_parameters(scores):
    positions = {"c": torch.tensor([1, 23])}
    changes = sparse_changes(scores, positions, {"c": torch.tensor([0.5, -1.0])})
    assert isinstance(changes["c"], Sparse)
    assert changes["c"].shape == (3, 2, 2, 2)
    moved = changes["c"].added_to(scores["c"]) - scores["c"]
    torch.testing.assert_close(moved.flatten()[[1, 23]], torch.tensor([0.5, -1.0]))
    assert int((moved != 0).sum()) == 2
