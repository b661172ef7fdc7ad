"""TIM against the numbers of the published implementations, and what is transductive about it."""

import pytest
import torch

from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.methods.tim import TIM

RUNS = {  # loss weights, learning rate and steps of the file's settings
    "official_gd": TIM(),
    "tim_gd_lr1e-2": TIM(ce=1.0, marginal=0.3, conditional=1.0, lr=1e-2, steps=200),
    "tim_gd": TIM(ce=1.0, marginal=0.3, conditional=1.0, lr=1e-4, steps=2000),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["bal_5shot", "hard_1shot", "imb_1shot"])
@pytest.mark.parametrize("run", RUNS)
def test_class_vectors_and_answers_are_the_published_ones(golden, task, run):
    vectors, _ = golden("transductive_tim")
    support, queries = vectors[f"{task}.x_s"], vectors[f"{task}.x_q"]
    labels, method = vectors[f"{task}.y_s"], RUNS[run]
    w = method.class_vectors(support, labels, 5, queries)
    assert (w - vectors[f"{task}.{run}.w_final"]).abs().max() < 1e-4
    found = method.answers(support, labels, 5, queries)
    expected = vectors[f"{task}.{run}.logits_final"]
    assert (found.softmax(1) - expected.softmax(1)).abs().max() < 1e-4
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_answers_depend_on_what_else_is_asked(golden):
    vectors, _ = golden("transductive_tim")
    method = TIM(lr=1e-2, steps=100)
    head = TransductiveHead(method, vectors["bal_5shot.x_s"], vectors["bal_5shot.y_s"], 5)
    queries = vectors["bal_5shot.x_q"]
    assert (head.logits(queries)[:10] - head.logits(queries[:10])).abs().max() > 0.1
    still = TransductiveHead(TIM(steps=0), head.features, head.labels, 5)
    torch.testing.assert_close(still.logits(queries)[:10], still.logits(queries[:10]))
    assert head.logits(queries[:0]).shape == (0, 5)


def test_no_gradient_leaves_and_a_pass_without_one_does_not_stop_it(golden):
    vectors, _ = golden("transductive_tim")
    support, labels, queries = (vectors[f"bal_5shot.{name}"] for name in ("x_s", "y_s", "x_q"))
    with torch.no_grad():
        logits = TIM(lr=1e-2, steps=3).answers(support, labels, 5, queries)
    still = TIM(steps=0).answers(support, labels, 5, queries)
    assert not logits.requires_grad and not torch.equal(logits, still)


def test_logits_are_multiplied_by_the_factor(golden):
    vectors, _ = golden("transductive_tim")
    head = TransductiveHead(TIM(steps=2), vectors["bal_5shot.x_s"], vectors["bal_5shot.y_s"], 5)
    queries = vectors["bal_5shot.x_q"]
    torch.testing.assert_close(head.sharpened(2).sharpened(1.5).logits(queries), 3 * head.logits(queries))
