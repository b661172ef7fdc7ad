"""CoPrompt against the numbers of the published implementation, and what it says it does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.grafts import check_graft
from fewshot_cli.engine.head.linear import cosine_head
from fewshot_cli.engine.model.clip.build import build_towers
from fewshot_cli.engine.model.clip.description import Description
from fewshot_cli.engine.model.clip.open_clip import imagenet_templates
from fewshot_cli.engine.model.clip.prompts import Prompts
from fewshot_cli.engine.model.model import Model, moved_backbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.coprompt import CoPrompt, sentences_of
from fewshot_cli.methods.maple import depth_of, first_prompts, prompts_of
from fewshot_cli.recipes import load_recipe

ONE, TWO = "d1", "d2"


def close(actual, expected, rtol=1e-4):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-5 * float(expected.abs().max()))


# --- the authors' numbers ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(golden):
    """open_clip's tiny towers with QuickGELU, the images and labels, and CoPrompt's numbers."""
    numbers, config = golden("coprompt")
    tiny, about = golden("clip_zero_shot")
    weights = {name[2:]: values for name, values in tiny.items() if name.startswith("w.")}
    towers = build_towers(Description("clip:golden", {**about["model"], "quick_gelu": True}, {}), weights)
    return towers, tiny["images"], tiny["labels"], numbers, config


def our_name(theirs: str) -> str:
    """What we call a parameter of the authors' code, whose deeper blocks count from 0."""
    learner, _, name = theirs.partition(".")
    if learner.startswith("adapter_"):
        return f"{learner.removeprefix('adapter_')}/{'down' if name == 'fc.0.weight' else 'up'}"
    kind, *which, value = ["ctx", name] if name == "ctx" else name.split(".")
    match kind:
        case "ctx":
            return "context/0"
        case "proj":
            return f"projection/0/{value}"
        case "compound_prompts_text":
            return f"context/{int(value) + 1}"
    return f"projection/{int(which[0]) + 1}/{value}"


def parameters_of(numbers, start):
    found = {name.removeprefix(start): values for name, values in numbers.items() if name.startswith(start)}
    return {our_name(name): values.clone().requires_grad_() for name, values in found.items()}


def published_prompts(numbers):
    """The prompts of the file's token ids, whose first two words are vectors."""
    ids = numbers["tokens"].clone()
    ids[:, 1:3] = torch.tensor([-1, -2])
    return Prompts.of_ids(ids, 2)


@pytest.mark.parametrize("depth", [ONE, TWO])
def test_both_towers_read_the_prompts_as_the_authors_do(published, depth):
    towers, images, _, numbers, config = published
    params, prompts = parameters_of(numbers, f"{depth}.p."), published_prompts(numbers)
    assert len(params) == (7 if depth == ONE else 10)
    method = CoPrompt(scale=towers.scale)
    assert (method.image_share, method.text_share) == (config["image_m"], config["text_m"])
    context = params["context/0"]
    close(prompts.table(towers, context).detach()[prompts.ids], numbers[f"{depth}.prompts"])
    deeper = [params["context/1"]] if depth == TWO else []
    read = prompts.features(towers, context, deeper).detach()
    close(read, numbers[f"{depth}.text_features_before_adapter"])
    grown = method.prompted(towers, params)
    seen, texts = method.seen(grown, images, params).detach(), method.texts(towers, prompts, params).detach()
    close(cosine_head(texts, towers.scale).logits(seen), numbers[f"{depth}.logits"])
    idle = params | {f"{tower}/up": torch.zeros_like(params[f"{tower}/up"]) for tower in ("image", "text")}
    plain = method.seen(grown, images, idle).detach()  # without what the adapters add
    close(plain / (1 - method.image_share), numbers[f"{depth}.image_features_before_adapter"])
    close(cosine_head(read, towers.scale).logits(plain), numbers[f"{depth}.maple_logits"])


@pytest.mark.parametrize(("depth", "criterion"), [(ONE, "cosine"), (TWO, "cosine"), (TWO, "mse")])
def test_the_loss_and_every_gradient_are_the_authors(published, depth, criterion):
    towers, images, labels, numbers, config = published
    params, prompts = parameters_of(numbers, f"{depth}.p."), published_prompts(numbers)
    method = CoPrompt(scale=towers.scale, criterion=criterion, consistency=config["lambda_"])
    frozen = towers.features(numbers["images2"])
    close(frozen, numbers[f"{depth}.teacher_image_features"])
    sentence = numbers["gpt_features"][int(numbers["gpt_index"])]
    seen = method.seen(method.prompted(towers, params), images, params)
    texts = method.texts(towers, prompts, params)
    loss = method.loss(seen, texts, labels, (frozen, sentence))
    loss.backward()
    of = f"{depth}.{criterion}."
    close(loss.detach().reshape(1), numbers[f"{of}total_loss"], rtol=1e-5)
    alone = CoPrompt(scale=towers.scale, consistency=0).loss(seen, texts, labels, None)
    close(alone.detach().reshape(1), numbers[f"{of}ce"], rtol=1e-5)
    expected = {our_name(name.removeprefix(f"{of}grad.")): name for name in numbers if name.startswith(f"{of}grad.")}
    assert expected.keys() == params.keys()
    for name, theirs in expected.items():
        close(params[name].grad, numbers[theirs], rtol=1e-3)


# --- how training begins and what it reads ----------------------------------------------------------------------------


def test_prompts_begin_at_words_and_projections_alike(clip):
    start = first_prompts(clip, "a photo of a", 2, 9, torch.Generator().manual_seed(0))
    assert depth_of(clip) == 2  # what nine blocks are cut to
    assert {name for name in start if name.startswith("context")} == {"context/0", "context/1"}
    words = clip.tokens(["a photo"])[0, 1:3]
    assert start["context/0"].equal(clip.params["text.token_embedding.weight"][words])
    assert 0.005 < start["context/1"].std() < 0.05
    assert start["projection/0/weight"].shape == (64, 16)
    assert not start["projection/0/weight"].equal(start["projection/1/weight"])
    another = {f"{blocks}.2.x": torch.zeros(1) for blocks in ("visual.blocks", "text.transformer.resblocks")}
    more = first_prompts(clip.moved(another), "a photo of a", 2, 9, torch.Generator().manual_seed(0))
    assert more["projection/1/weight"].equal(more["projection/2/weight"])
    assert not more["context/1"].equal(more["context/2"])


def test_words_that_stay_are_read_after_the_vectors(clip):
    """With the words' own vectors the prompts are the sentence."""
    prompts = prompts_of(clip, "a photo of a", 2, ("red_stripes", "blue rings"))
    words = clip.params["text.token_embedding.weight"][clip.tokens(["a photo"])[0, 1:3]]
    said = clip.text_features(clip.tokens(["a photo of a red stripes.", "a photo of a blue rings."]))
    close(prompts.features(clip, words), said)
    other = prompts.features(clip, words, [torch.ones(2, 16)])
    assert not torch.allclose(other, said)


def test_sentences_are_the_templates_of_openai_where_nothing_was_said(clip, easy):
    support = easy(clip)
    assert len(imagenet_templates()) == len(set(imagenet_templates())) == 80
    found = sentences_of(support)
    assert [len(of_class) for of_class in found] == [80, 80, 80]
    assert found[0][0] == "a bad photo of a red stripes."
    given = replace(support, texts=class_texts(support.classes, ("{}, drawn.", "a {}.")))
    assert sentences_of(given) == given.texts


def test_each_step_reads_one_sentence_of_each_class_and_both_views(clip, easy, monkeypatch):
    """Of classes with other numbers of sentences each has its own drawn."""
    asked = []
    support = easy(clip)
    texts = (("a", "b", "c", "d"), ("e", "f"), ("g",))
    read = type(clip).class_vectors
    monkeypatch.setattr(type(clip), "class_vectors", lambda self, texts: asked.append(texts) or read(self, texts))
    CoPrompt(epochs=8).move(clip, replace(support, texts=texts), Run())
    assert asked and len(asked) == len({str(each) for each in asked}) <= 4  # each is read once
    allowed = {(("a",), ("e",), ("g",)), (("b",), ("e",), ("g",)), (("c",), ("f",), ("g",)), (("d",), ("f",), ("g",))}
    assert {tuple(each) for each in asked} <= allowed


def test_consistency_holds_features_near_those_of_the_frozen_towers(clip, easy):
    support = easy(clip)
    queries = support.pictures()
    apart = {}
    for weight in (0.0, 300.0):
        method = CoPrompt(consistency=weight, epochs=12, augment=0.0, depth=1, lr=2e-3)
        moved = method.move(clip, replace(support, texts=class_texts(support.classes, ("a {}",))), Run(1))
        seen = moved_backbone(clip, {}, moved.graft).frozen_features(queries)
        apart[weight] = float(1 - F.cosine_similarity(seen, support.features).mean())
    assert apart[300.0] < apart[0.0]


def test_training_lowers_the_loss_and_moves_no_weight(clip, easy):
    heard = []
    support = easy(clip)
    method = CoPrompt(epochs=12, batch=12, augment=0.0, consistency=0)
    moved = method.move(clip, support, Run(watch=lambda step, steps, loss: heard.append((step, steps, loss))))
    assert [(step, steps) for step, steps, _ in heard] == [(step, 12) for step in range(1, 13)]
    assert heard[-1][2] < 0.5 * heard[0][2]
    assert moved.delta == {}
    assert moved.graft.sites == ("visual.patch_drop", "visual.blocks.0", "")
    check_graft(moved.graft, clip.module)


@pytest.mark.parametrize(("epochs", "says"), [(3, "step 3 of 3: the loss is nan"), (2, "a weight is no longer")])
def test_training_that_breaks_off_is_an_error(epochs, says, clip, easy):
    with pytest.raises(FewshotError, match=says):
        CoPrompt(lr=1e38, epochs=epochs, batch=12, scale=1e4).move(clip, easy(clip), Run())


# --- classes that were only named -------------------------------------------------------------------------------------


def test_named_classes_are_read_with_the_prompts_that_were_learned(clip, pictures):
    images, labels = pictures((4, 4), 3)
    known, other = ("red stripes", "green chequers"), ("blue_rings", "a cat")
    support = Support(images, labels, clip.frozen_features(images), 2, known, class_texts(known))
    others = Support(images[:0], labels[:0], torch.empty(0, clip.dim), 2, other, class_texts(other))
    learner = load_recipe("coprompt", backbone="clip:tiny").learner
    learned, named = learner.adapt_and_name(clip, support, others, Run(3))
    alone = learner.adapt(clip, support, Run(3))
    queries, _ = pictures((2, 2, 2), 5)
    assert torch.equal(Model(clip, learned).logits(queries), Model(clip, alone).logits(queries))
    assert all(named.graft.params[name].equal(values) for name, values in alone.graft.params.items())
    _, again = learner.adapt_and_name(clip, support, support, Run(3))
    torch.testing.assert_close(again.head.weight, learned.head.weight)
    assert named.head.weight.shape == (2, 16)
    assert not torch.allclose(named.head.weight, cosine_head(clip.class_vectors(others.texts), 100.0).weight, atol=1)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_more_vectors_than_words_are_refused(clip, easy):
    with pytest.raises(FewshotError, match="has 4 tokens, fewer than the 5"):
        CoPrompt(prompts=5).move(clip, easy(clip), Run())


def test_towers_that_take_no_prompts_are_refused(clip, easy):
    support = easy(clip)
    other = {**clip.model, "vision_cfg": {**clip.model["vision_cfg"], "layers": [1, 1, 1, 1]}}
    with pytest.raises(FewshotError, match="no plain vision transformer"):
        CoPrompt().move(replace(clip, model=other), support, Run())
    last = {**clip.model, "text_cfg": {**clip.model["text_cfg"], "pool_type": "last"}}
    with pytest.raises(FewshotError, match="does not end with a token of its own"):
        CoPrompt().move(replace(clip, model=last), support, Run())
    with pytest.raises(FewshotError, match="no names"):
        CoPrompt().move(clip, replace(support, classes=()), Run())


def test_a_criterion_that_compares_nothing_is_refused():
    with pytest.raises(FewshotError, match="would do nothing"):
        load_recipe("coprompt", ["method.consistency=0", "method.criterion=mse"], backbone="clip:tiny")


def test_prompts_of_another_tower_are_refused(clip, vit, easy):
    graft = CoPrompt(epochs=0).move(clip, easy(clip), Run()).graft
    with pytest.raises(ValueError, match="no module"):
        check_graft(graft, vit.module)
    with pytest.raises(ValueError, match="vision transformer"):
        check_graft(replace(graft, sites=("",)), vit.module)
