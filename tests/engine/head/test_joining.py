"""One head of several: what it answers, whatever kinds of head they are and in whatever order they come."""

from itertools import combinations_with_replacement, permutations

import pytest
import torch
from torch import Tensor

from fewshot_cli.engine.head.joining import joined
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.methods.gaussian import Gaussian
from fewshot_cli.methods.lda import LDA
from fewshot_cli.methods.logistic import Logistic
from fewshot_cli.methods.protonet import ProtoNet
from fewshot_cli.methods.ridge import Ridge

# --- heads ------------------------------------------------------------------------------------------------------------


def head(rows: list[list[float]], unit_norm: bool = False) -> Head:
    return Head(torch.tensor(rows), torch.arange(len(rows)).float(), unit_norm)


def test_classes_of_one_head_keep_their_rows_in_sorted_order():
    found = joined([head([[3.0, 4.0], [0.0, 5.0]]), head([[5.0, 0.0]])], [("owl", "kite"), ("lark",)])
    assert found.classes == ("kite", "lark", "owl")
    assert found.head.weight.tolist() == [[0, 5], [5, 0], [3, 4]]
    assert found.head.bias.tolist() == [1, 0, 0]
    assert found.factors == (1.0, 1.0) and found.cosines == {}


@pytest.mark.parametrize("unit_norm", [False, True])
def test_temperatures_are_evened_out_and_labels_within_a_head_stay(unit_norm):
    rng = torch.Generator().manual_seed(0)
    one = Head(torch.randn(3, 5, generator=rng), torch.randn(3, generator=rng), unit_norm)
    other = one.sharpened(16.0)
    found = joined([one, other], ["abc", "xyz"])
    assert found.factors == pytest.approx((4, 1 / 4))
    torch.testing.assert_close(found.head.weight[:3], found.head.weight[3:])
    features = torch.randn(9, 5, generator=rng)
    torch.testing.assert_close(found.head.logits(features)[:, :3], 4 * one.logits(features))


def test_a_class_of_several_heads_is_their_mean_and_says_how_far_they_agree():
    one, other = head([[1.0, 0.0], [0.0, 1.0]]), head([[0.0, 1.0], [0.0, 1.0]])
    found = joined([one, other], [("a", "b"), ("a", "b")])
    assert found.head.weight.tolist() == [[0.5, 0.5], [0, 1]]
    assert found.cosines == {"a": 0.0, "b": 1.0}
    directions = joined([head([[1.0, 0.0], [0.0, 1.0]], True), head([[0.0, 1.0], [0.0, 1.0]], True)], ["ab", "ab"])
    assert torch.allclose(directions.head.weight.norm(dim=1), torch.ones(2))


def test_a_head_of_zeros_is_left_as_it_is():
    found = joined([head([[0.0, 0.0]]), head([[1.0, 0.0]])], ["a", "b"])
    assert found.factors == (1.0, 1.0) and torch.isfinite(found.head.weight).all()


def test_the_order_of_heads_does_not_matter_to_the_logits():
    rng = torch.Generator().manual_seed(3)
    heads = [Head(torch.randn(2, 4, generator=rng), torch.zeros(2), True) for _ in range(3)]
    classes: list[tuple[str, str]] = [("a", "b"), ("b", "c"), ("c", "a")]
    expected: Tensor = joined(heads, classes).head.weight
    for order in permutations(range(3)):
        found = joined([heads[i] for i in order], [classes[i] for i in order]).head.weight
        torch.testing.assert_close(found, expected)


HEADS = {
    "ridge": Ridge(),
    "ridge-strong": Ridge(strength=3.0),
    "logistic": Logistic(),
    "gaussian": Gaussian(),
    "lda": LDA(),
    "euclidean": ProtoNet(distance="euclidean"),
}


def accuracies(one: str, other: str) -> list[float]:
    """Of each of seven classes, three of one head and four of another, as the joined head tells them apart."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(7).repeat_interleave(12)
    features = torch.rand(7, 48, generator=rng)[labels] + 0.5 * torch.rand(84, 48, generator=rng)  # never negative
    is_support = torch.arange(84) % 12 < 5
    heads, classes = [], []
    for name, own in ((one, range(3)), (other, range(3, 7))):
        of_file = is_support & (labels >= own.start) & (labels < own.stop)
        heads.append(HEADS[name].head(features[of_file], labels[of_file] - own.start, len(own)))
        classes.append([str(c) for c in own])
    found = joined(heads, classes).head.logits(features[~is_support]).argmax(1)
    right = (found == labels[~is_support]).double()
    return [float(right[labels[~is_support] == c].mean()) for c in range(7)]


@pytest.mark.parametrize(("one", "other"), list(combinations_with_replacement(HEADS, 2)))
def test_heads_of_any_two_methods_answer_all_classes_together(one, other):
    found = accuracies(one, other)
    assert min(found) >= 0.4 and sum(found) / 7 >= 0.8


def test_what_a_head_adds_to_all_its_logits_decides_nothing():
    rng = torch.Generator().manual_seed(0)
    one, other = (Head(torch.randn(3, 8, generator=rng), torch.randn(3, generator=rng), False) for _ in range(2))
    one = Head(one.weight - one.weight.mean(0), one.bias, False)
    moved = Head(other.weight + torch.randn(8, generator=rng), other.bias + 5, False)
    first, second = (joined([one, head], ["abc", "xyz"]).head for head in (other, moved))
    torch.testing.assert_close(first.weight, second.weight)
    torch.testing.assert_close(first.bias, second.bias)
    own = joined([one, other], ["abc", "xyz"])
    features = torch.randn(20, 8, generator=rng)
    assert torch.equal(own.head.logits(features)[:, :3].argmax(1), one.logits(features).argmax(1))
    assert torch.equal(own.head.logits(features)[:, 3:].argmax(1), other.logits(features).argmax(1))
