"""Composing against plain loops over every weight."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_cli.engine.delta.change import Change, Delta, Dense, LowRank, Sparse, merge, negated, scaled
from fewshot_cli.engine.delta.merging.dare import DARE, thinned
from fewshot_cli.engine.delta.merging.overlap import overlaps, survival
from fewshot_cli.engine.delta.merging.sums import aligned, total
from fewshot_cli.engine.delta.merging.ties import TIES, trimmed

SHAPE = (4, 2, 3)
SIZE = 24


def change(kind: type[Change], rng: torch.Generator) -> Change:
    if kind is Dense:
        return Dense(torch.randn(SHAPE, generator=rng))
    if kind is LowRank:
        return LowRank(SHAPE, torch.randn(4, 1, generator=rng), torch.randn(1, 6, generator=rng))
    positions = (torch.rand(SIZE, generator=rng) < 0.4).nonzero().squeeze(1)
    return Sparse(SHAPE, positions, torch.randn(len(positions), generator=rng))


@st.composite
def several(draw: st.DrawFn, kinds: tuple[type[Change], ...] = (Dense, Sparse, LowRank), count: int = 3) -> list[Delta]:
    """Deltas on the parameters a and b, some of them on one only."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    some = st.sampled_from([*kinds, None])
    chosen = [{name: kind for name in "ab" if (kind := draw(some))} for _ in range(count)]
    return [{name: change(kind, rng) for name, kind in each.items()} for each in chosen]


def values(delta: Delta) -> list[float]:
    """All values of both parameters, one after the other."""
    merged = merge({name: torch.zeros(SHAPE) for name in "ab"}, delta)
    return torch.cat([merged[name].flatten() for name in "ab"]).tolist()


def close(found: list[float], expected: list[float]) -> None:
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


# --- rules ------------------------------------------------------------------------------------------------------------


@given(several())
def test_the_total_is_the_sum_of_every_weight(deltas):
    close(values(total(deltas)), [math.fsum(column) for column in zip(*map(values, deltas), strict=True)])


@given(st.integers(0, 10_000))
def test_disjoint_deltas_add_up_exactly_and_in_any_order(seed):
    rng = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(SHAPE, generator=rng) for name in "abc"}
    owner = {name: torch.randint(0, 4, (SIZE,), generator=rng) for name in "ab"}
    whole = torch.randint(0, 3, (1,), generator=rng).item()
    changed = {name: torch.randn(SIZE, generator=rng) for name in "ab"}

    def delta_of(user: int) -> dict[str, Change]:
        places = {name: (owner[name] == user).nonzero().squeeze(1) for name in "ab"}
        found: dict[str, Change] = {n: Sparse(SHAPE, at, changed[n][at]) for n, at in places.items() if len(at)}
        return found | ({"c": change(LowRank, rng)} if user == whole else {})

    deltas = [delta_of(user) for user in range(3)]
    expected = base
    for delta in deltas:
        expected = merge(expected, delta)
    for order in permutations(deltas):
        found = merge(base, total(order))
        assert all(torch.equal(found[name], expected[name]) for name in base)
    assert survival(deltas[0], total(deltas)) == pytest.approx(1)


def test_a_single_delta_composes_to_itself():
    delta = {"a": change(LowRank, torch.Generator().manual_seed(0)), "b": Sparse(SHAPE, torch.arange(2), torch.ones(2))}
    assert total([delta]) == delta == total([delta, {}]) == ties([delta], 1.0)
    assert total([]) == {}


def test_low_rank_changes_stay_of_low_rank_where_that_is_smaller():
    rng = torch.Generator().manual_seed(0)
    one, other = ({"w": LowRank((8, 9), torch.randn(8, 1), torch.randn(1, 9, generator=rng))} for _ in range(2))
    assert isinstance(total([one, other])["w"], LowRank)
    small = {"w": LowRank((2, 2), torch.ones(2, 1), torch.ones(1, 2))}
    assert isinstance(total([small, small])["w"], Dense)


def ties(deltas: list[Delta], density: float) -> Delta:
    return TIES(density=density).merged(deltas, [""] * len(deltas), 0)


def naive_ties(deltas: list[list[float]], density: float) -> list[float]:
    """TIES weight by weight, as the paper tells it, trimming to a share of the values that are not 0."""
    cut = []
    for delta in deltas:
        magnitudes = sorted((abs(value) for value in delta if value), reverse=True)
        kept = max(1, round(density * len(magnitudes)))
        least = magnitudes[kept - 1] if magnitudes else 0.0
        cut.append([value if abs(value) >= least else 0.0 for value in delta])
    result = []
    for column in zip(*cut, strict=True):
        mass = math.fsum(column)
        agreeing = [value for value in column if value * mass > 0]
        result.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return result


@given(several(), st.sampled_from([0.1, 0.2, 0.5, 1.0]))
def test_ties_is_what_the_paper_tells(deltas, density):
    close(values(ties(deltas, density)), naive_ties([values(delta) for delta in deltas], density))


def test_ties_on_an_example():
    """Three users, density 2/3: the smallest value of each goes, then signs are elected."""
    given_ = [[3.0, -1.0, 0.5], [2.0, 4.0, -0.5], [-4.0, 0.1, 1.0]]
    deltas = [{"a": Dense(torch.tensor(row))} for row in given_]
    assert merge({"a": torch.zeros(3)}, ties(deltas, 2 / 3))["a"].tolist() == [2.5, 4.0, 1.0]


def test_what_cancels_exactly_stays_as_it_is():
    one, other = ({"a": Sparse((3,), torch.tensor([0, 2]), torch.tensor([value, 1.0]))} for value in (2.0, -2.0))
    assert merge({"a": torch.zeros(3)}, ties([one, other], 1.0))["a"].tolist() == [0, 0, 1]
    assert total([one, negated(one)]) == {}


@given(several(count=1), st.sampled_from([0.01, 0.3, 1.0]))
def test_trimming_keeps_the_largest(deltas, density):
    (delta,) = deltas
    before, after = values(delta), values(trimmed(delta, density))
    count = sum(value != 0 for value in before)
    kept = [abs(value) for value in after if value]
    assert len(kept) == (max(1, round(density * count)) if count else 0)
    assert all(found in (0, value) for found, value in zip(after, before, strict=True))
    left_out = [abs(value) for value, found in zip(before, after, strict=True) if not found]
    assert max(left_out, default=0) <= min(kept, default=math.inf)


@given(several(count=1), st.sampled_from([0.2, 0.7]), st.integers(0, 5))
def test_thinning_drops_by_chance_and_enlarges_the_rest(deltas, density, seed):
    (delta,) = deltas
    before, after = values(delta), values(thinned(delta, density, seed, "x"))
    for value, found in zip(before, after, strict=True):
        assert found == 0 or found == pytest.approx(value / density, rel=1e-5)
    assert values(thinned(delta, density, seed, "x")) == after


def test_thinning_keeps_the_share_asked_for_and_what_is_expected():
    delta = {"a": Dense(torch.ones(100_000)), "b": Sparse((200_000,), torch.arange(0, 200_000, 2), torch.ones(100_000))}
    found = thinned(delta, 0.25, 0, "x")
    for name, other in found.items():
        assert other.nonzeros() / 100_000 == pytest.approx(0.25, abs=0.01)
        assert other.values[other.values != 0].unique().tolist() == [4.0], name
    assert not torch.equal(found["a"].positions, thinned(delta, 0.25, 1, "x")["a"].positions)
    assert not torch.equal(found["a"].positions, thinned(delta, 0.25, 0, "y")["a"].positions)


@settings(max_examples=30)
@given(several(), st.sampled_from([0.3, 1.0]))
def test_dare_adds_what_was_thinned_whatever_the_order(deltas, density):
    names = ["x", "y", "z"]
    expected = values(total([thinned(delta, density, 7, name) for delta, name in zip(deltas, names, strict=True)]))
    assert values(DARE(density=density).merged(deltas, names, 7)) == expected
    close(values(DARE(density=density).merged(deltas[::-1], names[::-1], 7)), expected)


# --- where they disagree ----------------------------------------------------------------------------------------------


@given(several())
def test_overlaps_count_every_weight(deltas):
    rows = [merge({name: torch.zeros(SHAPE) for name in "ab"}, delta) for delta in deltas]
    columns = {name: torch.stack([row[name].flatten() for row in rows], 1).tolist() for name in "ab"}
    for found in overlaps(deltas):
        changing = [[value for value in column if value] for column in columns[found.parameter]]
        shared = [column for column in changing if len(column) > 1]
        assert found.alone == sum(len(column) == 1 for column in changing)
        assert found.shared == len(shared)
        assert found.agreeing == sum(min(column) > 0 or max(column) < 0 for column in shared)
        assert found.mass == pytest.approx(sum(abs(value) for column in shared for value in column))
        assert found.cancelled == pytest.approx(found.mass - sum(abs(sum(column)) for column in shared), abs=1e-5)


@given(several(count=2))
def test_survival_is_the_length_along_the_delta(deltas):
    one, other = (torch.tensor(values(delta), dtype=torch.float64) for delta in deltas)
    expected = float(one @ (one + other) / (one @ one)) if one.any() else 1.0
    assert survival(deltas[0], total(deltas)) == pytest.approx(expected, abs=1e-4)
    assert survival(deltas[0], scaled(deltas[0], 0.5)) == pytest.approx(0.5 if one.any() else 1.0)
    assert survival(deltas[0], {}) == (0.0 if one.any() else 1.0)


def test_aligned_changes_name_the_union_of_their_positions():
    one = Sparse((6,), torch.tensor([1, 4]), torch.tensor([1.0, 2.0]))
    other = Sparse((6,), torch.tensor([0, 4]), torch.tensor([3.0, 4.0]))
    positions, found = aligned([one, other])
    assert positions.tolist() == [0, 1, 4] and found.tolist() == [[0, 1, 2], [3, 0, 4]]
    positions, found = aligned([one, Dense(torch.ones(6))])
    assert positions is None and found.tolist() == [[0, 1, 0, 0, 2, 0], [1] * 6]
