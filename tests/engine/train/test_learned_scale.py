"""The scale of cosines with texts, trained along: its gradient, where it starts, and what is made of it."""

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.model.clip.names import SCALE
from fewshot_cli.engine.train.fine_tune import tune
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.saft import SAFT

SGD = Optim(name="sgd", momentum=0.0, lr=0.05, steps=1, batch=None)


def learned(**settings) -> Tuning:
    return Tuning(**{"head": "text", "scale": "learned", "augment": 0.0, "optim": SGD} | settings)


def length(head) -> float:
    """What the cosines of a head are multiplied by; all its rows are of one length."""
    lengths = head.weight.norm(dim=1)
    assert lengths.max() - lengths.min() < 1e-4 * lengths.max()
    return float(lengths.mean())


@pytest.mark.parametrize("start", [None, 20.0])
def test_the_logarithm_of_the_scale_goes_down_the_loss(start, clip, easy):
    """From the two towers' own scale, or from where a bank has brought it."""
    support = easy(clip)
    given = {} if start is None else {SCALE: torch.tensor(start).log()}
    weights = {name: clip.params[name] for name in ("visual.head.weight",)}
    own = lambda params: {name: params[name] for name in weights}  # noqa: E731
    trained, head = tune(clip, support, weights | given, own, learned(), Run())
    logarithm = torch.tensor(math.log(clip.scale if start is None else start), requires_grad=True)
    cosines = F.normalize(support.features, dim=1) @ clip.class_vectors(support.texts).T
    F.cross_entropy(logarithm.exp() * cosines, support.labels).backward()
    expected = float((logarithm.detach() - 0.05 * logarithm.grad).exp())
    assert abs(float(logarithm.grad)) > 0.01
    assert length(head) == pytest.approx(expected, rel=1e-5)
    assert trained.keys() == weights.keys() | given.keys()
    if given:
        assert float(trained[SCALE].exp()) == pytest.approx(expected, rel=1e-6)


def test_without_a_step_the_scale_is_the_towers_own(clip, easy):
    _, head = tune(clip, easy(clip), {}, lambda params: {}, learned(optim=Optim(steps=0)), Run())
    assert length(head) == pytest.approx(clip.scale, rel=1e-5)
    assert clip.scale == pytest.approx(1 / 0.07, rel=1e-5)


def test_classes_known_by_name_alone_are_compared_by_the_learned_scale(clip, easy):
    support = easy(clip)
    method = Finetune(targets="norm", tuning=learned(optim=Optim(lr=0.05, steps=5)))
    adapted, named = method.adapt_and_name(clip, support, support, Run())
    assert length(named.head) == pytest.approx(length(adapted.head), rel=1e-5)
    assert abs(length(adapted.head) - clip.scale) > 0.1


def test_what_chooses_weights_by_their_gradient_takes_the_scale_of_the_start(clip, easy):
    none = Optim(steps=0)
    by_own = SAFT(tuning=learned(optim=none)).move(clip, easy(clip), Run())
    by_number = SAFT(tuning=learned(optim=none, scale=clip.scale)).move(clip, easy(clip), Run())
    assert by_own.delta.keys() == by_number.delta.keys()
    assert all(by_own.delta[name].positions.equal(by_number.delta[name].positions) for name in by_own.delta)


@pytest.mark.parametrize("head", ["cosine", "prototypes"])
def test_only_texts_have_a_scale_of_their_own(head):
    with pytest.raises(ValidationError, match="which only `head: text` compares by"):
        Tuning(head=head, scale="learned")
    for wrong in (0, -1, "own"):
        with pytest.raises(ValidationError):
            Tuning(head="text", scale=wrong)
