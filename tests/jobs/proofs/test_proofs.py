"""What the proofs let pass and what they stop; that nothing is left is tested beside each command."""

import pytest
import torch

from fewshot_cli.engine.delta.change import Dense, LowRank, Sparse, is_same
from fewshot_cli.errors import CheckFailed
from fewshot_cli.jobs.proofs.elsewhere import BATCHES, ExpectedLogits, logits_elsewhere
from fewshot_cli.jobs.proofs.logits import check_labels, check_logits


@pytest.mark.parametrize(("away", "passes"), [(0.0, True), (9e-4, True), (2e-3, False), (torch.nan, False)])
def test_logits_may_differ_by_rounding_relative_to_the_largest(away, passes):
    wanted = torch.tensor([[10.0, -3.0], [0.5, 2.0]])
    found = wanted + torch.tensor([[0.0, 0.0], [0.0, away]])
    if passes:
        assert check_logits(found, wanted, "Other answers", "") == pytest.approx(away, abs=1e-6)
    else:
        with pytest.raises(CheckFailed, match="Other answers: logits differ by up to"):
            check_logits(found, wanted, "Other answers", "")


def test_one_label_in_a_hundred_may_change_by_rounding():
    labels = torch.arange(200) % 3
    changed = labels.clone()
    changed[:2] += 1
    assert check_labels(changed, labels, "It gives", "") == pytest.approx(0.99)
    changed[2] += 1
    with pytest.raises(CheckFailed, match="It gives other answers on 3 of the 200 images"):
        check_labels(changed, labels, "It gives", "")


def test_of_several_labels_all_are_to_stay():
    marks = torch.zeros(10, 3, dtype=torch.bool)
    changed = marks.clone()
    changed[4] = True
    with pytest.raises(CheckFailed, match="on 1 of the 10 images"):
        check_labels(changed, marks, "It gives", "")


@pytest.mark.parametrize("count", [1, 3, 23])
def test_another_program_is_asked_in_batches_of_every_size(count):
    pictures, norms = torch.randn(count, 3, 4, 4), torch.rand(count, 1) + 1
    sizes = []

    def program(part):
        sizes.append(len(part))
        return part.flatten(1).sum(1, keepdim=True)

    expected = ExpectedLogits(pictures, torch.zeros(count, 1), norms)
    found = logits_elsewhere(program, expected)
    torch.testing.assert_close(found, pictures.flatten(1).sum(1, keepdim=True) / norms)
    assert sum(sizes) == count and set(sizes) <= set(BATCHES)
    assert count < sum(BATCHES) or set(sizes) == set(BATCHES)


def test_deltas_are_the_same_in_whatever_form():
    left, right = torch.tensor([[1.0], [0.0]]), torch.tensor([[2.0, 0.0]])
    forms = (LowRank((2, 2), left, right), Dense(left @ right), Sparse((2, 2), torch.tensor([0]), torch.tensor([2.0])))
    assert all(is_same({"a": one}, {"a": other}) for one in forms for other in forms)
    moved = Sparse((2, 2), torch.tensor([1]), torch.tensor([2.0]))
    assert not any(is_same({"a": one}, {"a": moved}) for one in forms)
    assert not is_same({"a": forms[0]}, {"a": forms[0], "b": forms[0]})
