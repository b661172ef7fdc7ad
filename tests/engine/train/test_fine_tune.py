"""Fine-tuning against P>M>F's published numbers (`pmf`), step by step."""

import math
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.func import functional_call

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.delta.change import merge
from fewshot_cli.engine.head.linear import class_means
from fewshot_cli.engine.head.ridge import ridge_head
from fewshot_cli.engine.model.backbone import Backbone
from fewshot_cli.engine.model.chunks import ChunkLimit
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.train import fine_tune as tuning_module
from fewshot_cli.engine.train.fine_tune import tune
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.base import MoveThenHead
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.ridge import Ridge

AFTER = (
    "blocks.0.mlp.fc2.weight",
    "blocks.1.attn.qkv.weight",
    "cls_token",
    "norm.weight",
    "pos_embed",
)


@pytest.fixture(scope="module")
def published(golden):
    return golden("pmf")


@pytest.fixture(scope="module")
def backbone(published) -> Backbone:
    """The transformer of the file, whose pictures are stored normalised: ours are let through as they are."""
    vectors, config = published
    facts = {key: value for key, value in config["backbone"].items() if key not in ("timm_class", "eval_mode")}
    module = VisionTransformer(**facts)
    weights = {key.removeprefix("weights."): value for key, value in vectors.items() if key.startswith("weights.")}
    module.load_state_dict(weights)
    as_they_are = Preprocessing((16, 16), 1.0, "center", "bicubic", mean=(0.0,) * 3, std=(1 / 255,) * 3)
    return Backbone("golden", module.eval().requires_grad_(False), as_they_are, 24, weights, "Apache-2.0")


@pytest.fixture(scope="module")
def support(published, backbone) -> Support:
    vectors, _ = published
    features = backbone.features(vectors["support_x"])
    return Support(vectors["support_x"], vectors["support_y"], features, way=4)


def as_published(config, run: str, steps: int | None = None) -> Tuning:
    facts = config["runs"][run]
    optim = Optim(name="adam", lr=facts["lr"], steps=facts["steps"] if steps is None else steps, batch=None)
    return Tuning(head="prototypes", augment=facts.get("aug_prob", 0.0), scale=facts.get("scale", 10.0), optim=optim)


def test_prototypes_and_logits_without_adaptation_are_the_published_ones(published, backbone, support):
    vectors, _ = published
    prototypes = class_means(support.features, support.labels, support.way)
    torch.testing.assert_close(prototypes, vectors["vanilla.prototypes"], rtol=0, atol=1e-6)
    head = tuning_module.cosine_head(prototypes)
    torch.testing.assert_close(
        head.logits(backbone.features(vectors["query_x"])), vectors["vanilla.logits"], rtol=0, atol=1e-5
    )


def test_a_learning_rate_of_zero_is_no_adaptation(published, backbone, support):
    vectors, config = published
    adapted = Finetune(tuning=as_published(config, "ft0")).adapt(backbone, support, Run())
    assert not any(change.values.any() for change in adapted.delta.values())
    logits = adapted.head.logits(backbone.features(vectors["query_x"]))
    torch.testing.assert_close(logits, vectors["ft0.logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("run", ["ft1", "ft5", "ft5aug"])
def test_fine_tuning_takes_the_published_steps(published, backbone, support, run, monkeypatch):
    """Losses to 1e-5 of the largest, query logits to 5e-5, the change of weights to 0.5 %.

    Adam divides by |gradient|, so where a gradient is nearly zero a change is rounding noise times the learning rate:
    the order of the images alone moves the logits of `ft5` by 1e-5. Another method (prototypes without their gradient)
    would move them by more than their size.
    """
    vectors, config = published
    steps = config["runs"][run]["steps"]
    if run == "ft5aug":  # the published run's augmented batches in place of drawn ones, in the order of our support set
        numbered = Support(torch.arange(len(support)), support.labels, support.features, support.way)
        order = numbered.in_order().images[torch.arange(len(support))]
        stored = iter(vectors["ft5aug.augmented"][:, order])
        monkeypatch.setattr(tuning_module, "diff_augment", lambda plain, draws: next(stored))
    losses = []
    watching = Run(watch=lambda step, steps, loss: losses.append(loss))
    adapted = Finetune(tuning=as_published(config, run)).adapt(backbone, support, watching)

    assert len(losses) == steps
    assert losses == pytest.approx(vectors[f"{run}.losses"].tolist(), rel=0, abs=1e-5 * max(losses))
    weights = merge(backbone.params, adapted.delta)
    facts = config["runs"][run]
    logits = adapted.head.logits(backbone.features(vectors["query_x"], weights)) + facts["scale"] * facts["bias"]
    expected = vectors[f"{run}.logits"]
    assert (logits - expected).abs().max() < 5e-5 * expected.abs().max()
    for name in AFTER:
        change = vectors[f"{run}.after.{name}"] - backbone.params[name]
        assert (adapted.delta[name].values - change).abs().max() < 5e-3 * change.abs().max(), name


def test_prototypes_carry_their_gradient(published, backbone, support):
    """Without it the five published steps would end elsewhere: the gradient of the first loss, by hand, both ways."""
    weights = {name: values.clone().requires_grad_() for name, values in backbone.params.items()}
    features = functional_call(backbone.module, weights, (support.images,))
    for detached in (False, True):
        prototypes = class_means(features, support.labels, 4)
        cosines = torch.cosine_similarity(
            features[:, None], (prototypes.detach() if detached else prototypes)[None], dim=2
        )
        loss = torch.nn.functional.cross_entropy(10 * cosines, support.labels)
        by_hand = torch.autograd.grad(loss, weights["norm.bias"], retain_graph=True)[0]
        sgd = Optim(name="sgd", lr=1e-3, momentum=0, steps=1, batch=None)
        tuned, _ = tune(
            backbone,
            support,
            {"norm.bias": backbone.params["norm.bias"]},
            lambda params: params,
            Tuning(head="prototypes", augment=0, optim=sgd),
            Run(),
        )
        step = (backbone.params["norm.bias"] - tuned["norm.bias"]) / 1e-3
        assert torch.allclose(step, by_hand, atol=1e-4) != detached


def test_class_vectors_start_at_the_prototypes_and_learn_at_their_own_rate(backbone, support):
    def head_after(head_lr: float):
        optim = Optim(name="sgd", lr=0.1, momentum=0, steps=1, batch=None)
        tuning = Tuning(head="cosine", augment=0, head_lr=head_lr, optim=optim)
        trained, head = tune(
            backbone, support, {"norm.bias": backbone.params["norm.bias"]}, dict_of_norm, tuning, Run()
        )
        assert list(trained) == ["norm.bias"]
        return head.weight

    still, once = head_after(0.0), head_after(1.0)
    prototypes = class_means(support.features, support.labels, 4)
    torch.testing.assert_close(still, 10 * torch.nn.functional.normalize(prototypes, dim=1))
    assert not torch.allclose(once, still)
    torch.testing.assert_close(once.norm(dim=1), torch.full((4,), 10.0))


def dict_of_norm(params):
    return {"norm.bias": params["norm.bias"]}


@pytest.mark.parametrize("batch", [1, 4, 5, 100, None])
def test_every_image_is_seen_once_before_any_is_seen_twice(backbone, support, batch):
    """Pictures that write down who asks for them."""
    asked: list[int] = []

    class Recorder:
        def __len__(self) -> int:
            return len(support)

        def __getitem__(self, indices):
            asked.extend(indices.tolist())
            return support.images[indices]

    size = min(batch or len(support), len(support))
    steps = 2 * math.ceil(len(support) / size)
    recorded = Support(Recorder(), support.labels, support.features, support.way)
    optim = Optim(lr=1e-4, steps=steps, batch=batch)
    tune(
        backbone,
        recorded,
        {"norm.bias": backbone.params["norm.bias"]},
        dict_of_norm,
        Tuning(augment=0, optim=optim),
        Run(),
    )
    assert len(asked) == steps * size
    for first in range(0, len(asked) - len(support) + 1, len(support)):
        assert sorted(asked[first : first + len(support)]) == list(range(len(support)))


@pytest.mark.parametrize(("size", "batch"), [(25, 16), (25, 24), (7, 3), (2, 1)])
def test_no_image_is_twice_in_a_batch(size, batch):
    """Where a batch reaches into the next pass, too; and every pass still has every image once."""
    batches = tuning_module._Batches(size, batch, torch.Generator().manual_seed(0))
    drawn = [batches.next().tolist() for _ in range(200)]
    assert all(len(set(indices)) == batch for indices in drawn)
    asked = [index for indices in drawn for index in indices]
    for first in range(0, len(asked) - size + 1, size):
        assert sorted(asked[first : first + size]) == list(range(size))
    assert len({tuple(asked[first : first + size]) for first in range(0, len(asked) - size + 1, size)}) > 1


@pytest.mark.parametrize(
    ("steps", "epochs", "batch", "taken"),
    [
        (3, 0.0, 4, 3),
        (3, 2.0, 4, 6),
        (3, 1.0, 4, 3),
        (7, 2.0, 4, 7),
        (1, 1.5, 4, 5),
        (1, 4.0, None, 4),
        (1, 3.0, 100, 3),
    ],
)
def test_a_large_support_set_takes_more_steps(backbone, support, steps, epochs, batch, taken):
    """Eleven images: two passes in batches of four are six steps."""
    heard = []
    optim = Optim(steps=steps, epochs=epochs, batch=batch)
    run = Run(watch=lambda step, steps, loss: heard.append((step, steps)))
    tune(backbone, support, {"norm.bias": backbone.params["norm.bias"]}, dict_of_norm, Tuning(optim=optim), run)
    assert heard == [(step + 1, taken) for step in range(taken)]


@pytest.mark.parametrize("head", ["cosine", "prototypes"])
def test_a_head_of_ones_own_is_fitted_to_the_moved_features(backbone, support, head):
    name = "blocks.0.norm1.weight"  # not the last bias, since ridge does not mind when all features move by the same
    tuning = Tuning(head=head, optim=Optim(steps=3, batch=None, lr=0.1))
    method = Finetune(targets="blocks.0.norm1.weight", tuning=tuning)
    refitted = MoveThenHead(method, Ridge()).adapt(backbone, support, Run())
    along = method.adapt(backbone, support, Run())
    assert torch.equal(refitted.delta[name].values, along.delta[name].values)
    ordered = support.in_order()
    expected = ridge_head(Model(backbone, along).features_of(ordered), ordered.labels, ordered.way)
    torch.testing.assert_close(refitted.head.weight, expected.weight)
    torch.testing.assert_close(refitted.head.bias, expected.bias)
    frozen = ridge_head(support.features, support.labels, support.way)
    assert not torch.allclose(refitted.head.weight, frozen.weight, rtol=1e-2)


def test_a_batch_in_parts_is_the_batch(backbone, support, monkeypatch):
    """What the weights follow from is differentiated in every part; the losses of the parts add up."""
    name = "blocks.0.attn.qkv.weight"
    start = {"factor": torch.tensor(1.0)}
    tuning = Tuning(augment=0, optim=Optim(steps=2, batch=None, lr=0.01))
    found = []
    for chunk in (100, 3):
        monkeypatch.setattr(Backbone, "trained_chunk", chunk)
        trained, head = tune(
            backbone, support, start, lambda params: {name: params["factor"] * backbone.params[name]}, tuning, Run()
        )
        found.append((trained["factor"], head.weight))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=1e-4)


def test_another_objective_joins_the_first_and_hears_of_features_parameters_and_the_part(backbone, support):
    heard = []

    def small(features, params, part, rng):
        heard.append((features.shape, part.labels.tolist(), part.share, rng.initial_seed()))
        return 100 * params["norm.bias"].square().sum()

    start = {"norm.bias": backbone.params["norm.bias"] + 1}
    tuning = Tuning(augment=0, optim=Optim(steps=3, batch=4, lr=0.1))
    pulled, _ = tune(backbone, support, start, dict_of_norm, tuning, Run(7), also=(small,))
    free, _ = tune(backbone, support, start, dict_of_norm, tuning, Run(7))
    assert pulled["norm.bias"].norm() < free["norm.bias"].norm() - 0.1
    assert len(heard) == 3 and {shape for shape, *_ in heard} == {(4, 24)}
    assert all(share == 1 and seed == 7 for _, _, share, seed in heard)


def test_learning_rates_are_told_by_pattern(backbone, support):
    start = {name: backbone.params[name] for name in ("norm.bias", "norm.weight", "blocks.0.norm1.bias")}
    tuning = Tuning(augment=0, optim=Optim(name="adam", steps=1, lr=0.01, batch=None))
    rates = {r"^norm\.": 0.0, "bias$": 3.0}
    trained, _ = tune(backbone, support, start, dict, tuning, Run(), lr_scale=rates)
    moved = {name: float((trained[name] - start[name]).abs().max()) for name in start}
    assert moved["norm.bias"] == moved["norm.weight"] == 0  # the first pattern that is found
    assert moved["blocks.0.norm1.bias"] == pytest.approx(0.03, rel=1e-3)  # Adam's first step is the learning rate


# --- memory ---


@contextmanager
def memory_for(backbone, pictures):
    """The backbone with limits of its own, out of memory above so many pictures where there is to be a gradient."""
    short = replace(backbone, frozen_limit=ChunkLimit(), trained_limit=ChunkLimit())

    def refuse(module, inputs):
        if len(inputs[0]) > pictures and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = backbone.module.register_forward_pre_hook(refuse)
    try:
        yield short
    finally:
        hook.remove()


@pytest.mark.slow
@pytest.mark.parametrize("augment", [0.0, 0.9])
@pytest.mark.parametrize("head", ["cosine", "prototypes"])
def test_too_little_memory_for_a_batch_takes_smaller_parts_to_the_same_end(backbone, support, head, augment):
    """Also with chance: the step that failed is repeated with the same random numbers."""
    optim = Optim(name="sgd", lr=0.1, steps=4, batch=None if head == "prototypes" else 8)  # Adam would blow up rounding
    tuning = Tuning(head=head, augment=augment, optim=optim)
    method = Finetune(targets="bias$", tuning=tuning)
    expected = method.adapt(backbone, support, Run(3))
    with memory_for(backbone, 3) as short:
        found = method.adapt(short, support, Run(3))
        assert short.trained_limit.pictures <= 3 and short.frozen_limit.pictures == math.inf
    torch.testing.assert_close(found.head.weight, expected.head.weight, rtol=1e-3, atol=1e-3)
    for name, change in expected.delta.items():
        torch.testing.assert_close(found.delta[name].values, change.values, rtol=1e-2, atol=1e-4)


def test_passes_with_chance_of_their_own_are_forgotten_and_never_done_twice(backbone, support):
    forgotten, left = [], []

    def leaving(features, params, part, rng):
        left.append(len(part.labels))
        return features.new_zeros(())

    start = {"norm.bias": backbone.params["norm.bias"]}
    with memory_for(backbone, 3) as short:
        optim = Optim(steps=2, batch=8)
        tuning = Tuning(optim=optim)
        tune(short, support, start, dict_of_norm, tuning, Run(), (leaving,), forget=lambda: forgotten.append(1))
        assert len(forgotten) == 2 and sum(left) == 16 and max(left) <= 3
        tuning = Tuning(head="prototypes", optim=Optim(steps=2, batch=None))
        with pytest.raises(FewshotError, match="Memory is not enough"):
            tune(short, support, start, dict_of_norm, tuning, Run(), forget=lambda: None)


def test_one_image_too_much_is_an_error_that_says_what_to_set(backbone, support):
    with memory_for(backbone, 0) as short, pytest.raises(FewshotError, match="with a gradient") as caught:
        Finetune(targets="bias$", tuning=Tuning(optim=Optim(steps=1))).adapt(short, support, Run())
    assert "--image-size" in caught.value.hint


# --- what a GPU does otherwise ---


def test_only_the_backbones_passes_are_in_bfloat16(backbone, support, monkeypatch):
    monkeypatch.setattr(tuning_module, "has_bfloat16", lambda device: True)
    inside, outside = [], []
    hook = backbone.module.get_submodule("blocks.0.attn.qkv").register_forward_hook(
        lambda module, inputs, outputs: inside.append((outputs.dtype, torch.is_grad_enabled()))
    )

    def seen(features, params, part, rng):
        outside.extend([features.dtype, *(values.dtype for values in params.values())])
        return torch.zeros(())

    start = {"norm.bias": backbone.params["norm.bias"]}
    try:
        trained, head = tune(backbone, support, start, dict_of_norm, Tuning(optim=Optim(steps=2)), Run(), (seen,))
    finally:
        hook.remove()
    assert {dtype for dtype, with_gradient in inside if with_gradient} == {torch.bfloat16}
    assert {*outside, trained["norm.bias"].dtype, head.weight.dtype} == {torch.float32}


def test_a_gpu_is_sent_the_pictures_once_unless_they_are_too_many(backbone, support, monkeypatch):
    sent = []
    monkeypatch.setattr(tuning_module, "sent", lambda values, device: sent.append((values, device)) or values)
    on_gpu = SimpleNamespace(device=torch.device("cuda"), preprocessing=backbone.preprocessing)
    held = tuning_module._held(support, on_gpu)
    assert torch.equal(held, support.pictures()) and len(sent) == 1 and sent[0][1].type == "cuda"
    assert tuning_module._held(support, backbone) is support.images and len(sent) == 1
    monkeypatch.setattr(tuning_module, "MOST_HELD", 1000)
    assert tuning_module._held(support, on_gpu) is support.images and len(sent) == 1
