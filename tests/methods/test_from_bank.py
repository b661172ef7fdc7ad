"""A method from a bank of experts: its laws, and what it does next to the same thing by hand."""

from dataclasses import replace

import pytest
import torch

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.delta.change import density, merge
from fewshot_cli.engine.head.linear import class_means, cosine_head
from fewshot_cli.engine.meta.smat.expert_mixer import ExpertMixer
from fewshot_cli.engine.meta.smat.flat_backbone import FlatBackbone
from fewshot_cli.engine.meta.smat.gates import gates
from fewshot_cli.engine.meta.smat.loss import LOGITS, router_of, start_bank
from fewshot_cli.engine.meta.smat.packed_gates import PackedGates
from fewshot_cli.engine.meta.smat.router import folded
from fewshot_cli.engine.meta.smat.settings import SMATSettings
from fewshot_cli.engine.model.flat_params import Layout
from fewshot_cli.engine.params import total_size
from fewshot_cli.methods.from_bank import FromBank, share_kept
from fewshot_cli.recipes import load_recipe

QUICK = ("method.tuning.optim.steps=2", "method.tuning.optim.epochs=0")


@pytest.fixture(scope="module")
def mixer(backbone) -> ExpertMixer:
    net = FlatBackbone.of(backbone)
    bank = start_bank(net, SMATSettings(experts=3), seed=0)
    delta = 0.02 * torch.randn(net.layout.size, generator=torch.Generator().manual_seed(1))
    packed = PackedGates.of_gates(gates(4 * bank[LOGITS]))
    return ExpertMixer(delta, packed, folded(router_of(bank)), "mean")


@pytest.fixture(scope="module")
def from_bank(backbone, mixer):
    def learner(recipe: str, share: float | None = None, delta: float = 1.0) -> FromBank:
        method = load_recipe(recipe, QUICK if hasattr(load_recipe(recipe).method, "tuning") else ()).method
        moved = replace(mixer, delta=delta * mixer.delta)
        return FromBank(method, moved, Layout.of(backbone.params), 0.5, share)

    return learner


def logits(backbone, adapted, pictures):
    return adapted.head.logits(backbone.frozen_features(pictures, merge(backbone.params, adapted.delta)))


def test_prototypes_are_taken_at_the_weights_that_the_mixer_merges(backbone, mixer, from_bank, easy, pictures):
    support, (queries, _) = easy(backbone), pictures((3, 3, 3), seed=9)
    frozen = class_means(support.features, support.labels, support.way)
    layout = Layout.of(backbone.params)
    weights = layout.views(mixer.merged(layout.flatten(backbone.params), frozen, 0.5))
    prototypes = class_means(backbone.frozen_features(support.images, weights), support.labels, support.way)
    expected = cosine_head(prototypes).logits(backbone.frozen_features(queries, weights))
    adapted = from_bank("protonet").adapt(backbone, support, Run())
    torch.testing.assert_close(logits(backbone, adapted, queries), expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(expected, cosine_head(frozen).logits(backbone.frozen_features(queries)), atol=1e-2)


@pytest.mark.parametrize("recipe", ["protonet", "ridge", "bitfit", "lora", "shira"])
def test_a_bank_that_changes_nothing_leaves_the_plain_method(recipe, backbone, from_bank, easy):
    learner, support = from_bank(recipe, delta=0), easy(backbone)
    plain, found = learner.method.adapt(backbone, support, Run(3)), learner.adapt(backbone, support, Run(3))
    assert torch.equal(plain.head.weight, found.head.weight)
    merged = [merge(backbone.params, adapted.delta) for adapted in (plain, found)]
    assert all(torch.equal(merged[0][name], merged[1][name]) for name in backbone.params)


@pytest.mark.parametrize("recipe", ["ridge", "finetune", "lora", "saft"])
def test_what_bank_and_method_add_is_one_delta_on_the_base(recipe, backbone, from_bank, easy, pictures):
    """The head answers as it does on the backbone that the bank moved and the method tuned there."""
    learner, support, (queries, _) = from_bank(recipe), easy(backbone), pictures((3, 3, 3), seed=9)
    moved = backbone.moved(merge(backbone.params, learner.delta(backbone, support)))
    tuned = learner.method.adapt(moved, replace(support, features=moved.frozen_features(support.images)), Run(3))
    adapted = learner.adapt(backbone, support, Run(3))
    expected = logits(moved, tuned, queries)
    torch.testing.assert_close(logits(backbone, adapted, queries), expected, rtol=1e-3, atol=1e-3)


def test_the_order_of_the_classes_changes_nothing(backbone, from_bank, easy, pictures):
    support, (queries, _) = easy(backbone), pictures((3, 3, 3), seed=9)
    order = torch.tensor([2, 0, 1])
    other = Support(support.images, order[support.labels], support.features, support.way)
    answers = [
        logits(backbone, from_bank("protonet").adapt(backbone, task, Run()), queries) for task in (support, other)
    ]
    torch.testing.assert_close(answers[1][:, order], answers[0], rtol=1e-3, atol=1e-3)


def test_the_task_decides_the_change(backbone, from_bank, easy):
    one, other = (from_bank("protonet").delta(backbone, easy(backbone, seed=seed)) for seed in (1, 2))
    name = next(iter(one))
    assert not torch.equal(merge(backbone.params, one)[name], merge(backbone.params, other)[name])


@pytest.mark.parametrize("share", [0.001, 0.05, 1.0])
def test_a_density_keeps_the_largest_changes(share, backbone, from_bank, easy):
    support = easy(backbone)
    every, kept = (from_bank("protonet", each).delta(backbone, support) for each in (None, share))
    size = total_size(backbone.params)
    assert density(kept, size) == pytest.approx(min(share, density(every, size)), abs=1 / size)
    zeros = {name: torch.zeros_like(values) for name, values in backbone.params.items()}
    full, few = (Layout.of(zeros).flatten(merge(zeros, delta)) for delta in (every, kept))
    assert torch.equal(few[few != 0], full[few != 0])
    assert few[few != 0].abs().min() >= full[few == 0].abs().max() if share < 0.5 else True


def test_a_density_counts_all_weights_whatever_the_bank_moves():
    some = Layout(("a",), ((10,),))
    assert share_kept(0.05, 100, some) == pytest.approx(0.5)
    assert share_kept(0.5, 100, some) == 1
    assert share_kept(0.3, 10, some) == 0.3


def test_support_images_go_once_through_the_moved_weights(vit, easy, monkeypatch):
    from fewshot_cli.engine.model.backbone import Backbone

    seen: list[int] = []
    original = Backbone.frozen_features
    support = easy(vit)
    net = FlatBackbone.of(vit)
    bank = start_bank(net, SMATSettings(experts=2), seed=0)
    mixer = ExpertMixer(
        torch.ones(net.layout.size) / 100, PackedGates.of_gates(gates(bank[LOGITS])), folded(router_of(bank)), "mean"
    )
    monkeypatch.setattr(
        Backbone, "frozen_features", lambda self, given, *rest: seen.append(len(given)) or original(self, given, *rest)
    )
    FromBank(load_recipe("protonet").method, mixer, net.layout, 0.5).adapt(vit, support, Run())
    assert seen == [len(support)]
