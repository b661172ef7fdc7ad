"""The laws that every method keeps, over the registry and over every recipe."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import Adapted, Run
from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.model.model import Model
from fewshot_cli.meta_recipes import recipe_names
from fewshot_cli.methods import GRAFTS, HEADS, META_METHODS, MOVES, class_named
from fewshot_cli.methods.base import Learner, MoveThenHead
from fewshot_cli.methods.clap import CLAP
from fewshot_cli.methods.clip_adapter import CLIPAdapter
from fewshot_cli.methods.coop import CoOp
from fewshot_cli.methods.coprompt import CoPrompt
from fewshot_cli.methods.prolip import ProLIP
from fewshot_cli.methods.tip_adapter import TipAdapter, TipAdapterF
from fewshot_cli.recipes import Recipe, load_recipe

REGISTRY = [class_named(name, HEADS | MOVES) for name in HEADS | MOVES]


def trained(method: Learner, steps: int, batch: int | None) -> Learner:
    """The method with other steps, where it takes any, and all else as it was."""
    if isinstance(method, MoveThenHead):
        return replace(method, method=trained(method.method, steps, batch))
    settings: dict[str, Any] = method.model_dump()
    if "tuning" in settings:
        settings["tuning"]["optim"] |= {
            "steps": steps,
            "epochs": 0,
            "steps_per_shot": 0,
            "batch": settings["tuning"]["optim"]["batch"] and batch,
        }
    elif isinstance(method, ProLIP | CoOp | CLIPAdapter):
        settings["steps"] = steps
    elif isinstance(method, TipAdapterF):
        settings["epochs"] = steps
    elif isinstance(method, CoPrompt):  # whose rate is for shorter words than those of the tiny towers
        settings |= {"epochs": steps // -(-12 // (batch or 12)), "batch": batch or 12, "lr": 1e-3}
    elif isinstance(method, CLAP):  # whose rate is for longer texts than those of the tiny towers
        settings |= {"epochs": steps, "lr": 1e-3}
    return type(method).model_validate(settings)


def quick(method: Learner) -> Learner:
    """Three steps in batches smaller than the support set's 12 images, so that batches are drawn."""
    return trained(method, steps=3, batch=5)


METHODS = {f"default-{cls.model_fields['name'].default}": quick(cls()) for cls in REGISTRY}
METHODS |= {f"recipe-{name}": quick(load_recipe(name).learner) for name in recipe_names(Recipe)}
METHODS |= {  # any head goes with any move
    f"{move}-then-{head}": quick(load_recipe(move, [f"head.name={head}"]).learner)
    for move, head in (
        ("finetune", "lda"),
        ("lora", "ridge"),
        ("bitfit", "protonet"),
        ("saft", "logistic"),
        ("moa", "lda"),
        ("bitfit", "tim"),
    )
}
every_method = pytest.mark.parametrize("name", METHODS)


def test_there_are_methods_and_recipes_to_hold_to_the_laws():
    assert len(REGISTRY) >= 8
    assert sum(name.startswith("recipe-") for name in METHODS) >= 10
    assert {type(method) for method in METHODS.values()} == {*REGISTRY, MoveThenHead}


@pytest.mark.parametrize("registry", [HEADS, MOVES, META_METHODS, GRAFTS], ids=["heads", "moves", "meta", "grafts"])
def test_a_registry_has_each_class_under_its_own_name(registry):
    for name in registry:
        assert class_named(name, registry).model_fields["name"].default == name


@pytest.fixture(scope="module", params=["vit", "conv", "clip"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Tokens with layer norm, convolutions with batch norm in channels-last memory, and two towers."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def first_answer(backbone: Backbone, easy):
    """What a method answers to the easy task, computed once for all laws."""
    answers: dict[str, Adapted] = {}

    def answer(name: str) -> Adapted:
        needs_attention = any(word in name for word in ("attention", "moa", "kadaptation"))
        if needs_attention and not any("attn" in parameter for parameter in backbone.params):
            pytest.skip("a convolutional network has no attention")
        if METHODS[name].needs_text and not isinstance(backbone, TwoTowers):
            pytest.skip("only a text tower reads the names of the classes")
        if name not in answers:
            answers[name] = METHODS[name].adapt(backbone, easy(backbone), Run(seed=3))
        return answers[name]

    return answer


def tensors(backbone: Backbone, adapted: Adapted) -> dict[str, Tensor]:
    """All the numbers of an answer: merged weights, and the head's."""
    merged = merge({name: backbone.params[name] for name in adapted.delta}, adapted.delta)
    graft = dict(adapted.graft.params) if adapted.graft else {}
    head = adapted.head
    if isinstance(head, TransductiveHead):
        return merged | graft | {"features": head.features, "labels": head.labels}
    return merged | graft | {"weight": head.weight, "bias": head.bias}


def logits(backbone: Backbone, adapted: Adapted, pictures: Tensor) -> Tensor:
    return Model(backbone, adapted).logits(pictures)


@pytest.mark.slow
@every_method
def test_the_same_seed_gives_the_same_answer(name, backbone, easy, first_answer):
    first = tensors(backbone, first_answer(name))
    again = tensors(backbone, METHODS[name].adapt(backbone, easy(backbone), Run(seed=3)))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.slow
@every_method
def test_permuting_the_support_set_changes_nothing(name, backbone, easy, pictures, first_answer):
    first = first_answer(name)
    support = easy(backbone)
    order = torch.randperm(len(support), generator=torch.Generator().manual_seed(5))
    images = support.images[order]
    permuted = replace(support, images=images, labels=support.labels[order], features=backbone.frozen_features(images))
    other = METHODS[name].adapt(backbone, permuted, Run(seed=3))
    queries, _ = pictures((4, 4, 4), seed=9)
    expected, actual = logits(backbone, first, queries), logits(backbone, other, queries)
    # Another order of the data would move the logits of a trained method by more than 1e-2 of their spread.
    assert (actual - expected).abs().max() < 1e-3 * (expected.max() - expected.min())


@every_method
def test_the_delta_names_parameters_of_the_backbone_and_has_their_shapes(name, backbone, first_answer):
    delta = first_answer(name).delta
    assert delta.keys() <= backbone.params.keys()
    for parameter, change in delta.items():
        assert change.shape == backbone.params[parameter].shape
        assert change.added_to(backbone.params[parameter]).shape == backbone.params[parameter].shape


@pytest.mark.slow
@every_method
def test_backbone_and_support_set_are_untouched(name, backbone, easy, first_answer):
    first_answer(name)  # skips what this backbone has not
    support = easy(backbone)
    state = {key: value.clone() for key, value in backbone.module.state_dict().items()}
    before = [values.clone() for values in (support.images, support.labels, support.features)]
    METHODS[name].adapt(backbone, support, Run(seed=4))
    after = backbone.module.state_dict()
    assert state.keys() == after.keys()  # parameters and buffers, batch-norm statistics among them
    assert all(torch.equal(state[key], after[key]) for key in state)
    assert all(map(torch.equal, before, (support.images, support.labels, support.features)))
    assert not backbone.module.training
    assert not any(p.requires_grad or p.grad is not None for p in backbone.module.parameters())


@pytest.mark.slow
@every_method
def test_an_easy_support_set_is_separated(name, backbone, easy, pictures, first_answer):
    first_answer(name)  # skips what this backbone has not
    queries, answers = pictures((8, 8, 8), seed=2)
    adapted = trained(METHODS[name], steps=10, batch=12).adapt(backbone, easy(backbone), Run(seed=3))
    given = logits(backbone, adapted, queries)
    assert given.shape == (24, 3)
    assert given.isfinite().all()
    assert (given.argmax(1) == answers).float().mean() >= 0.9


@every_method
def test_the_head_is_a_plain_detached_layer_of_the_right_shape(name, backbone, first_answer):
    answer = first_answer(name)
    head = answer.head
    assert not any(values.requires_grad for values in tensors(backbone, first_answer(name)).values())
    if isinstance(head, TransductiveHead):
        assert head.features.shape == (12, backbone.dim) and head.labels.shape == (12,) and head.way == 3
        return
    assert head.weight.shape == (3, answer.graft.kind.width(backbone.dim) if answer.graft else backbone.dim)
    assert head.bias.shape == (3,)
    assert head.weight.dtype == head.bias.dtype == torch.float32


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.head_only is None])
def test_the_seed_and_the_watch_of_a_trained_method_are_used(name, vit, clip, easy):
    heard = []
    vit = clip if METHODS[name].needs_text else vit
    other = METHODS[name].adapt(
        vit, easy(vit), Run(seed=8, watch=lambda step, steps, loss: heard.append((step, steps)))
    )
    same = METHODS[name].adapt(vit, easy(vit), Run(seed=3))
    assert heard == ([] if type(METHODS[name]) is TipAdapter else [(1, 3), (2, 3), (3, 3)])
    changed = [
        not torch.equal(a, b) for a, b in zip(tensors(vit, other).values(), tensors(vit, same).values(), strict=True)
    ]
    assert any(changed) == (not name.endswith(("tsa", "coop")))  # which draw nothing
