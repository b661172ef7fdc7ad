"""Every kind of change against plain dense addition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fewshot_cli.engine.delta import change as deltas
from fewshot_cli.engine.delta.change import (
    Change,
    Delta,
    Dense,
    LowRank,
    Sparse,
    delta_of,
    density,
    interpolated,
    masked,
    merge,
    negated,
    on_device,
    plus,
    scaled,
)

SHAPE = (6, 4, 3, 3)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def dense_and_sparse() -> tuple[Tensor, Sparse]:
    positions = torch.tensor([0, 5, 35, 36, 100, 215])
    values = drawn(6)
    dense = torch.zeros(SHAPE)
    for position, value in zip(positions.tolist(), values, strict=True):
        dense.view(-1)[position] = value
    return dense, Sparse(SHAPE, positions, values)


def dense_and_low_rank() -> tuple[Tensor, LowRank]:
    left, right = drawn(6, 2), drawn(2, 36)
    dense = torch.stack([sum(left[i, r] * right[r] for r in range(2)) for i in range(6)]).reshape(SHAPE)
    return dense, LowRank(SHAPE, left, right)


def dense_and_dense() -> tuple[Tensor, Dense]:
    values = drawn(*SHAPE)
    return values, Dense(values)


every_kind = pytest.mark.parametrize("kind", [dense_and_dense, dense_and_sparse, dense_and_low_rank])


@every_kind
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_change_adds_the_same_values_in_every_memory_format(kind, memory):
    dense, change = kind()
    base = drawn(*SHAPE[::-1]).permute(3, 2, 1, 0).contiguous(memory_format=memory)
    before = base.clone()
    torch.testing.assert_close(change.added_to(base), base + dense)
    assert torch.equal(base, before)
    assert change.shape == SHAPE


@every_kind
def test_nonzeros_counts_the_values_that_change(kind):
    dense, change = kind()
    assert change.nonzeros() == int((dense != 0).sum())


def test_merge_moves_what_the_delta_names_and_nothing_else():
    base = {"moved": drawn(*SHAPE), "kept": drawn(3, 2)}
    dense, change = dense_and_sparse()
    merged = merge(base, {"moved": change})
    assert torch.equal(merged["kept"], base["kept"])
    torch.testing.assert_close(merged["moved"], base["moved"] + dense)
    assert list(merged) == ["moved", "kept"]
    assert torch.equal(merge(base, {})["moved"], base["moved"])


def test_a_sparse_merge_leaves_every_other_value_bitwise_as_it_was():
    base = drawn(*SHAPE)
    dense, change = dense_and_sparse()
    merged = merge({"w": base}, {"w": change})["w"]
    assert torch.equal(merged[dense == 0], base[dense == 0])


def test_merging_is_differentiable_in_the_delta():
    base, coefficients = drawn(*SHAPE), drawn(*SHAPE)
    values = dense_and_sparse()[1].values.requires_grad_()
    left, right = drawn(6, 2).requires_grad_(), drawn(2, 36).requires_grad_()
    positions = dense_and_sparse()[1].positions
    changes: dict[str, Change] = {"s": Sparse(SHAPE, positions, values), "l": LowRank(SHAPE, left, right)}
    merged = merge({"s": base, "l": base}, changes)
    sum((weight * coefficients).sum() for weight in merged.values()).backward()
    matrix = coefficients.reshape(6, 36)
    torch.testing.assert_close(values.grad, coefficients.flatten()[positions])
    torch.testing.assert_close(left.grad, matrix @ right.detach().T)
    torch.testing.assert_close(right.grad, left.detach().T @ matrix)


@given(st.data())
def test_the_sum_of_two_deltas_moves_weights_as_one_after_the_other(data):
    kinds = st.sampled_from([Dense, Sparse, LowRank, None])
    first, second = ({n: k for n in "abc" if (k := data.draw(kinds))} for _ in range(2))
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    base = {name: torch.randn(SHAPE, generator=rng) for name in "abc"}
    one, other = ({name: random_change(kind, rng) for name, kind in each.items()} for each in (first, second))
    total = plus(one, other)
    torch.testing.assert_close(merge(base, total), merge(merge(base, one), other), rtol=1e-5, atol=1e-5)
    for name in "abc":
        if first.get(name) is Sparse and second.get(name) is Sparse:
            assert isinstance(total[name], Sparse)
            union = set(one[name].positions.tolist()) | set(other[name].positions.tolist())
            assert total[name].positions.tolist() == sorted(union)
        elif name in total and None in (first.get(name), second.get(name)):
            assert total[name] is (one.get(name) or other.get(name))


def random_change(kind: type[Change], rng: torch.Generator) -> Change:
    if kind is Dense:
        return Dense(torch.randn(SHAPE, generator=rng))
    if kind is LowRank:
        return LowRank(SHAPE, torch.randn(6, 2, generator=rng), torch.randn(2, 36, generator=rng))
    positions = (torch.rand(216, generator=rng) < 0.1).nonzero().squeeze(1)
    return Sparse(SHAPE, positions, torch.randn(len(positions), generator=rng))


def test_a_sum_that_is_mostly_zeros_is_sparse():
    dense, sparse = dense_and_sparse()
    assert isinstance(plus({"w": Dense(dense)}, {"w": sparse})["w"], Sparse)
    assert isinstance(plus({"w": Dense(torch.ones(SHAPE))}, {"w": sparse})["w"], Dense)


def test_the_delta_of_values_is_in_the_smaller_form_and_names_only_what_changes():
    few, _ = dense_and_sparse()
    delta = delta_of({"few": few, "none": torch.zeros(3), "all": torch.ones(2, 2)})
    assert {name: type(change) for name, change in delta.items()} == {"few": Sparse, "all": Dense}
    base = {"few": torch.zeros(SHAPE), "all": torch.zeros(2, 2)}
    torch.testing.assert_close(merge(base, delta), {"few": few, "all": torch.ones(2, 2)})


def test_density_is_the_share_of_the_whole_backbone_that_changes():
    assert density({}, 100) == 0
    assert density({"w": dense_and_sparse()[1]}, 600) == pytest.approx(6 / 600)
    assert density({"w": Dense(torch.ones(10)), "v": Dense(torch.tensor([0.0, 1.0]))}, 12) == pytest.approx(11 / 12)


def test_shira_merges_and_differentiates_like_peft(golden):
    """PEFT's SHiRA layers on c(tanh(a(x)) + b(x)): output, half strength, and the gradients.

    The file's `merged.*` are no test: PEFT had unmerged them again, so they are the base up to rounding. That the
    output under merged weights is PEFT's shows the merge.
    """
    vectors, _ = golden("shira")
    base = {f"{n}.{part}": vectors[f"base.{n}.{part}"] for n in "abc" for part in ("weight", "bias")}
    values = {n: vectors[f"val.{n}"].clone().requires_grad_() for n in "abc"}
    x = vectors["x"].clone().requires_grad_()

    def delta(scale: float) -> dict[str, Change]:
        changes: dict[str, Change] = {}
        for n in "abc":
            shape = tuple(base[f"{n}.weight"].shape)
            rows, columns = vectors[f"seed123.{n}.idx"]
            changes[f"{n}.weight"] = Sparse(shape, rows * shape[1] + columns, scale * values[n])
        return changes

    def output(scale: float) -> Tensor:
        w = merge(base, delta(scale))
        hidden = torch.tanh(x @ w["a.weight"].T + w["a.bias"]) + x @ w["b.weight"].T + w["b.bias"]
        return hidden @ w["c.weight"].T + w["c.bias"]

    torch.testing.assert_close(output(0.5), vectors["y.scale0.5"], rtol=1e-5, atol=1e-5)
    y = output(1.0)
    torch.testing.assert_close(y, vectors["y"], rtol=1e-5, atol=1e-5)
    (y * vectors["coef"]).sum().backward()
    torch.testing.assert_close(x.grad, vectors["grad.x"], rtol=1e-4, atol=1e-5)
    for n in "abc":
        torch.testing.assert_close(values[n].grad, vectors[f"grad.{n}"], rtol=1e-4, atol=1e-5)


def test_on_device_moves_every_tensor():
    delta = {"a": Dense(torch.ones(2)), "b": LowRank((2, 2), torch.ones(2, 1), torch.ones(1, 2))}
    moved = on_device(delta | {"c": Sparse((3,), torch.tensor([1]), torch.ones(1))}, torch.device("meta"))
    tensors = [value for change in moved.values() for value in vars(change).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 5
    assert all(values.device.type == "meta" for values in tensors)


# --- algebra ----------------------------------------------------------------------------------------------------------


def several(data: st.DataObject, count: int) -> list[dict[str, Change]]:
    """Deltas of random kinds on the parameters a, b and c."""
    kinds = st.sampled_from([Dense, Sparse, LowRank, None])
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    chosen = [{name: kind for name in "abc" if (kind := data.draw(kinds))} for _ in range(count)]
    return [{name: random_change(kind, rng) for name, kind in each.items()} for each in chosen]


def dense(delta: Delta) -> dict[str, Tensor]:
    """All values of the parameters a, b and c, zeros where the delta changes nothing."""
    return merge({name: torch.zeros(SHAPE) for name in "abc"}, delta)


@given(st.data(), st.floats(-3, 3, width=32))
def test_a_scaled_delta_has_every_value_scaled_and_its_forms(data, factor):
    (delta,) = several(data, 1)
    found = scaled(delta, factor)
    assert {name: type(change) for name, change in found.items()} == {n: type(change) for n, change in delta.items()}
    for name, values in dense(delta).items():
        torch.testing.assert_close(dense(found)[name], factor * values)


@given(st.data())
def test_a_delta_and_its_negative_are_nothing(data):
    (delta,) = several(data, 1)
    back = negated(delta)
    assert all(torch.equal(dense(back)[name], -values) for name, values in dense(delta).items())
    assert all(not values.any() for values in dense(plus(delta, back)).values())


@pytest.mark.slow
@given(st.data(), st.floats(0, 1))
def test_interpolation_goes_from_the_first_to_the_second(data, share):
    first, second = several(data, 2)
    one, other = dense(first), dense(second)
    for name, values in dense(interpolated(first, second, share)).items():
        torch.testing.assert_close(values, (1 - share) * one[name] + share * other[name], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(v, one[name]) for name, v in dense(interpolated(first, second, 0)).items())
    assert all(torch.equal(v, other[name]) for name, v in dense(interpolated(first, second, 1)).items())


@given(st.data())
def test_a_mask_keeps_what_it_names_and_nothing_else(data):
    (delta,) = several(data, 1)
    rng = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    share = data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    where = {name: torch.rand(SHAPE, generator=rng) < share for name in "ab"}
    found = masked(delta, where)
    assert "c" not in found
    for name, values in dense(delta).items():
        expected = values * where[name] if name in where else torch.zeros(SHAPE)
        assert torch.equal(dense(found)[name], expected)
        if name in found:
            assert found[name].nonzeros() > 0
            assert isinstance(found[name], Sparse) or not isinstance(delta[name], Sparse)


def test_a_product_of_factors_is_counted_in_parts(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    left, right = torch.randn(50, 3, generator=rng), torch.randn(3, 40, generator=rng)
    left[10:13], right[:, 4] = 0, 0
    change = LowRank((50, 40), left, right)
    whole = change.nonzeros()
    for most in (1, 40, 100, 10**6):
        monkeypatch.setattr(deltas, "MOST_AT_ONCE", most)
        assert change.nonzeros() == whole == 47 * 39
