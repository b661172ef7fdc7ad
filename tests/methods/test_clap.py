"""CLAP: equal to its authors' numbers, and what it says of batches, multipliers and images that are not there."""

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.train.schedules import prompt_lr
from fewshot_cli.methods.clap import CLAP
from fewshot_cli.methods.zero_shot import ZeroShot


def close(actual, expected, rtol=1e-4):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-5 * float(expected.abs().max()))


@pytest.fixture(scope="module")
def published(golden):
    """The authors' numbers, and what they are of: texts, features of all views, and labels."""
    numbers, about = golden("clap")
    seen, labels = numbers["views"].flatten(0, 1), numbers["y"].repeat(len(numbers["views"]))
    return numbers, about, (numbers["base_text"], seen, labels)


def test_multipliers_and_loss_are_its_authors(published):
    numbers, about, (texts, seen, labels) = published
    method = CLAP(scale=about["scale"])
    close(method.logits(texts, seen), numbers["zero_shot_logits"])
    multipliers = method.multipliers(texts, seen, labels)
    close(multipliers, numbers["multipliers"])
    assert multipliers.max() - multipliers.min() > 0.3  # classes that the texts know well, and others
    vectors = numbers["moved"].clone().requires_grad_()
    loss = method.loss(vectors, texts, multipliers, seen, labels)
    loss.backward()
    close(loss.detach().reshape(1), numbers["moved_loss"])
    close(vectors.grad, numbers["moved_grad"], rtol=1e-3)
    without = CLAP(scale=about["scale"], penalty=0.0).loss(vectors, texts, multipliers, seen, labels)
    close((loss - without).detach().reshape(1), numbers["moved_penalty"])


@pytest.mark.parametrize(("penalty", "case"), [(1.0, "l2"), (0.0, "none")])
def test_training_is_its_authors(published, penalty, case):
    numbers, about, given = published
    method = CLAP(scale=about["scale"], penalty=penalty)
    rates = [prompt_lr(epoch, about["lr"], about["epochs"]) for epoch in range(about["epochs"])]
    close(torch.tensor(rates), numbers["lrs"])
    batches = [(rate, torch.arange(len(given[1]))) for rate in rates]
    for after in (1, 2, 30):
        vectors = method.trained(*given, batches[:after], Run())
        moved, expected = vectors - given[0], numbers[f"{case}.it{after}"] - given[0]
        assert (moved - expected).abs().max() < 1e-3 * expected.abs().max() + 1e-6
    if case == "none":
        close(method.logits(vectors, numbers["x_test"]), numbers["test_logits_none"])


def test_an_epoch_has_as_many_batches_as_the_images_fill_and_draws_from_all_crops():
    """The authors stop an epoch over the crops after as many batches as the images alone would take."""
    labels = torch.arange(300) % 3
    support = Support(torch.empty(300, 0), labels, torch.empty(300, 4), 3)
    few = support.subset(torch.arange(6))
    batches = list(CLAP(views=5, epochs=4)._batches(support, 0))
    assert [len(rows) for _, rows in batches] == [256] * 4
    assert [rate for rate, _ in batches] == [prompt_lr(epoch, 0.1, 4) for epoch in range(4)]
    assert all(len(rows.unique()) == 256 and rows.max() >= 300 for _, rows in batches)
    assert not batches[0][1].equal(batches[1][1])
    two = support.subset(torch.arange(600) % 300)
    assert [len(rows) for _, rows in CLAP(views=1, epochs=1)._batches(two, 0)] == [256, 256]
    assert [rows.sort().values.tolist() for _, rows in CLAP(views=2, epochs=1)._batches(few, 0)] == [list(range(12))]


def test_a_class_without_images_stays_near_its_text():
    texts = torch.eye(3, 5)
    seen, labels = torch.eye(3, 5)[[0, 0, 1]] + 0.1, torch.tensor([0, 0, 1])
    multipliers = CLAP().multipliers(texts, seen, labels)
    expected = (100 * F.normalize(seen, dim=1) @ texts.T).softmax(1)
    close(multipliers, torch.stack([expected[:2, 0].mean(), expected[2, 1], torch.tensor(1.0)]))


def test_it_begins_with_texts_as_long_as_the_tower_makes_them(clip, easy):
    support = easy(clip)
    begun = CLAP(epochs=0, views=1).move(clip, support, Run())
    assert begun.delta == {}
    close(begun.head.weight, ZeroShot().fitted(support).weight)
    raw = clip.mean_text_features(support.texts)
    assert (raw.norm(dim=1) - 1).abs().min() > 0.01
    two = clip.mean_text_features((("a hawk", "a kite"),))
    close(two, clip.text_features(clip.tokens(["a hawk", "a kite"])).mean(0, keepdim=True))


def test_a_penalty_keeps_vectors_near_the_texts(clip, easy):
    support = easy(clip)
    texts = ZeroShot().fitted(support).weight
    heads = (CLAP(lr=1e-2, epochs=50, views=2, penalty=much).move(clip, support, Run()).head for much in (0.0, 10.0))
    free, held = (float((head.weight - texts).norm()) for head in heads)
    assert 0 < held < 0.8 * free
