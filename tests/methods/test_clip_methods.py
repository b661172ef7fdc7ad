"""The methods that read the names of the classes: equal to their authors' numbers, and to what they say they are."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.engine.head.gaussian import gaussian_head
from fewshot_cli.engine.model.clip.build import build_towers
from fewshot_cli.engine.model.clip.description import Description
from fewshot_cli.engine.model.clip.names import canonical
from fewshot_cli.engine.train.schedules import cross_modal_lr, prompt_lr
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.engine.train.text import with_texts
from fewshot_cli.errors import FewshotError
from fewshot_cli.methods.clip_adapter import Blend, CLIPAdapter
from fewshot_cli.methods.coop import CoOp, prompts_around
from fewshot_cli.methods.cross_modal import CrossModal
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.gda import ALPHAS, GDA
from fewshot_cli.methods.lora import LoRA
from fewshot_cli.methods.lp_plus_plus import LPPlusPlus
from fewshot_cli.methods.prolip import PROJECTION, ProLIP
from fewshot_cli.methods.saft import SAFT
from fewshot_cli.methods.sparse import task_gradient
from fewshot_cli.methods.taskres import TaskRes
from fewshot_cli.methods.tip_adapter import KEYS, Cache, TipAdapter, TipAdapterF, best_pair, search_points, votes
from fewshot_cli.methods.two_stage import TwoStage
from fewshot_cli.methods.zero_shot import ZeroShot
from fewshot_cli.recipes import load_recipe


def close(actual, expected, rtol=1e-4):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-5 * float(expected.abs().max()))


# --- zero-shot, Gaussian ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_zero_shot_answers_by_the_texts_alone(clip, easy):
    support = easy(clip)
    head = ZeroShot().fitted(support)
    close(head.weight, 100 * clip.class_vectors(support.texts))
    assert torch.equal(head.weight, ZeroShot().fitted(support.subset(torch.tensor([0]))).weight)


@pytest.mark.parametrize("case", ["s4", "s1", "rank_deficient"])
def test_the_gaussian_head_is_its_authors(golden, case):
    numbers, _ = golden("gda")
    given = {name.removeprefix(f"{case}."): values for name, values in numbers.items() if name.startswith(f"{case}.")}
    views = F.normalize(given["views"], dim=-1)
    features, labels = views.flatten(0, 1), given["y_s"].repeat(len(views))
    fitted = gaussian_head(features, labels, len(given["text"]))
    close(fitted.weight, given["W"].T)
    close(fitted.bias, given["b"])
    head = GDA(alpha=float(given["best_alpha"])).with_text(features, labels, given["text"])
    close(head.logits(given["x_test"]), given["test_logits"])


def test_gda_with_one_image_of_each_class_is_the_text(clip, easy):
    support = easy(clip, (1, 1, 1))
    images, _ = torch.randn(7, 16), None
    answers = GDA().fitted(support).logits(images)
    expected = ZeroShot().fitted(support).logits(images)
    close(answers - answers[:, :1], expected - expected[:, :1])


def test_gda_chooses_alpha_by_images_left_out():
    """Texts that know nothing beside images that know all, and the other way round."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(6)
    right = torch.eye(3, 8)
    images = right[labels] + 0.05 * torch.randn(18, 8, generator=rng)
    wrong = right.roll(1, 0)
    assert GDA()._chosen(F.normalize(images, dim=1), labels, wrong) > 0.1
    noise = torch.randn(18, 8, generator=rng) + 2 * right[labels]
    assert GDA()._chosen(F.normalize(noise, dim=1), labels, right) in ALPHAS


# --- ProLIP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "lr", "pull"), [("lr1e-2_1N", 1e-2, None), ("lr1e-5_1N2", 1e-5, 1 / 16)])
def test_prolip_is_its_authors(golden, case, lr, pull):
    numbers, _ = golden("prolip")
    heard = []
    run = Run(watch=lambda step, steps, loss: heard.append((step, steps)))
    given = numbers["views"], numbers["y_s"], numbers["text"], numbers["proj_init"].T
    trained = ProLIP(lr=lr, pull=pull, steps=20).projection(*given, run)
    close(trained.T, numbers[f"{case}.proj_it20"])
    moved = trained.T - numbers["proj_init"]
    expected = numbers[f"{case}.proj_it20"] - numbers["proj_init"]
    if case == "lr1e-2_1N":  # a change that float32 can tell from the weight
        assert (moved - expected).abs().max() < 1e-4 * expected.abs().max()
    features = F.normalize(numbers["x_test"] @ trained.T, dim=1)
    close(100 * features @ numbers["text"].T, numbers[f"{case}.test_logits"])
    assert heard == [(step, 20) for step in range(1, 21)]


def test_prolip_moves_nothing_but_the_projection(clip, easy):
    moved = ProLIP(lr=1e-2, steps=3, views=2).move(clip, easy(clip), Run())
    assert list(moved.delta) == [PROJECTION]
    pulled = ProLIP(lr=1e-2, steps=3, views=2, pull=1e6).move(clip, easy(clip), Run())
    assert pulled.delta[PROJECTION].values.norm() < moved.delta[PROJECTION].values.norm()


# --- LP++, TaskRes ----------------------------------------------------------------------------------------------------


def test_lp_plus_plus_is_its_authors(golden):
    numbers, _ = golden("lp_plus_plus")
    for steps in (1, 2, 10, 20, 30):
        method = LPPlusPlus(steps=steps, accumulate=True)
        weight, bias, alpha = method.fit(numbers["x_s"], numbers["y_s"], numbers["text"], numbers["bias_init"])
        for name, values in (("weight", weight), ("bias", bias), ("alpha", alpha)):
            close(values, numbers[f"it{steps}.{name}"])
    head = LPPlusPlus(steps=30).with_text(numbers["x_s"], numbers["y_s"], numbers["text"])
    assert (head.logits(numbers["x_s"]).argmax(1) == numbers["y_s"]).float().mean() > 0.7


def test_taskres_is_its_authors(golden):
    numbers, _ = golden("taskres")
    texts, unit, labels = numbers["base_text"], F.normalize(numbers["x"], dim=1), numbers["y"]
    method = TaskRes()
    close(method.logits(unit, texts, torch.zeros_like(texts)), numbers["logits_init"])
    residual = numbers["residual"].clone().requires_grad_()
    loss = F.cross_entropy(method.logits(unit, texts, residual), labels)
    loss.backward()
    close(loss.detach().reshape(1), numbers["loss"].reshape(1))
    close(residual.grad, numbers["grad_residual"], rtol=1e-3)
    for steps in (1, 20):
        close(method.residual(numbers["x"], labels, texts, [2e-3] * steps), numbers[f"adam_it{steps}"], rtol=1e-3)


def test_the_schedule_of_prompts_is_coops(golden):
    numbers, _ = golden("coop")
    rates = torch.tensor([prompt_lr(epoch, 2e-3, 50) for epoch in range(50)])
    close(rates, numbers["schedule.ep50_lr2e-3"])


def test_clip_adapter_is_its_authors(golden):
    numbers, _ = golden("clip_adapter")
    params = {"down": numbers["w1"].clone().requires_grad_(), "up": numbers["w2"].clone().requires_grad_()}
    support = Support(numbers["x"], numbers["y"], numbers["x"], 5, vectors=numbers["base_text"])
    adapted = Blend(share=1.0).output("", params, numbers["x"], numbers["x"])
    close(adapted.detach(), numbers["adapter_out"])
    loss = CLIPAdapter().loss(params, support)
    loss.backward()
    close(loss.detach().reshape(1), numbers["loss"].reshape(1))
    for name, of in (("down", "grad_w1"), ("up", "grad_w2")):
        close(params[name].grad, numbers[of], rtol=1e-3)


def test_cross_modal_probe_is_its_authors(golden):
    numbers, about = golden("cross_modal")
    rates = [cross_modal_lr(step, about["lr"], about["iters"]) for step in range(about["iters"])]
    close(torch.tensor(rates), numbers["lrs"])
    steps = [
        (rate, numbers["x_s"][i], numbers["y_s"][i], numbers["text"][t], numbers["y_text"][t])
        for rate, i, t in zip(rates, numbers["image_batches"], numbers["text_batches"], strict=True)
    ]
    method = CrossModal(weight_decay=about["wd"], scale=math.exp(about["logit"]))
    for after in (1, 20):
        close(method.trained(numbers["w_init"], steps[:after]), numbers[f"w_after{after}"])
    close(method.loss(numbers["w_init"], *steps[0][1:]).reshape(1), numbers["losses"][:1])
    best = method.trained(numbers["w_init"], steps[: int(numbers["best_iter"]) + 1])
    unit = F.normalize(numbers["x_test"], dim=1)
    close(method.scale * unit @ best.T, numbers["test_logits"])
    close(method.scale * unit @ (0.5 * best + 0.5 * numbers["zeroshot_weights"]).T, numbers["test_logits_wiseft"])


# --- Tip-Adapter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["bal_5shot", "hard_1shot", "imb_5shot"])
def test_tip_adapter_is_its_authors(golden, case):
    numbers, about = golden("transductive_tip_adapter")
    given = {name.removeprefix(f"{case}."): values for name, values in numbers.items() if name.startswith(f"{case}.")}
    close(TipAdapter().keys(given["support_views"]), given["keys"])
    one_hot = F.one_hot(given["y_s"]).float()
    asked = F.normalize(given["x_val"], dim=1)
    cosines, said = asked @ given["keys"].T, given["val_proto_logits"]
    close(100 * asked @ given["protos"].T, said)
    for beta, alpha in ((1, 2), (5.5, 20)):
        close(said + alpha * votes(cosines, beta, one_hot), given[f"beta{beta}_alpha{alpha}.val_logits"])
    scales = [
        search_points(scale, points) for scale, points in zip(about["search_scale"], about["search_step"], strict=True)
    ]
    best = best_pair(said, cosines, one_hot, given["y_val"], *scales)
    assert best == pytest.approx((about["best"][case]["best_beta"], about["best"][case]["best_alpha"]))
    counts = tuple(torch.bincount(given["y_s"]).tolist())
    seen = Cache(beta=best[0], counts=counts).output("", {KEYS: given["keys"]}, given["x_q"], given["x_q"])
    weight = torch.cat([100 * given["protos"], best[1] * torch.eye(len(counts))], dim=1)
    close(seen @ weight.T, given["query_logits_best"])


@pytest.mark.slow
def test_tip_adapter_chooses_by_images_left_out():
    """The pair is the one of the most right answers, fold by fold, of a cache without the images of the fold."""
    rng = torch.Generator().manual_seed(4)
    labels = torch.arange(3).repeat_interleave(4)
    features = F.normalize(torch.eye(3, 8)[labels] + 0.6 * torch.randn(12, 8, generator=rng), dim=1)
    texts = F.normalize(torch.eye(3, 8) + 0.6 * torch.randn(3, 8, generator=rng), dim=1)
    support = Support(features, labels, features, 3, vectors=texts)
    found: dict[tuple[float, float], int] = {}
    for beta in search_points(7.0, 20):
        for alpha in search_points(3.0, 20):
            right = 0
            for fold in range(4):
                asked = torch.arange(12) % 4 == fold
                voted = votes(features[asked] @ features[~asked].T, beta, F.one_hot(labels[~asked]).float())
                right += int(((2 * features[asked] @ texts.T + alpha * voted).argmax(1) == labels[asked]).sum())
            found[beta, alpha] = right
    assert len(set(found.values())) > 1
    assert TipAdapter(scale=2.0)._chosen(support, features) == max(found, key=lambda pair: found[pair])
    assert TipAdapter(alpha=2.5, beta=3.0)._chosen(support, features) == (3.0, 2.5)
    one_each = support.subset(torch.tensor([0, 4, 8]))
    assert TipAdapter()._chosen(one_each, features[[0, 4, 8]]) == (1.0, 1.17)


def test_training_the_keys_lowers_the_loss(clip, easy):
    heard = []
    run = Run(watch=lambda step, steps, loss: heard.append(loss))
    method = TipAdapterF(alpha=3.0, beta=5.0, views=1, epochs=20, lr=1e-2, scale=5.0)
    trained = method.move(clip, easy(clip), run)
    plain = TipAdapter(alpha=3.0, beta=5.0, views=1, scale=5.0).move(clip, easy(clip), Run())
    assert heard[-1] < heard[0]
    assert trained.head.weight.equal(plain.head.weight)
    assert not trained.graft.params[KEYS].equal(plain.graft.params[KEYS])


def test_another_head_on_a_cache_is_refused():
    with pytest.raises(FewshotError, match="is a head already"):
        load_recipe("tip-adapter", ["head.name=ridge"])


@pytest.fixture(scope="module")
def prompted(golden):
    """open_clip's tiny towers with QuickGELU, as CoOp's numbers are of, and their task."""
    numbers, config = golden("coop")
    tiny, about = golden("clip_zero_shot")
    weights = {name[2:]: values for name, values in tiny.items() if name.startswith("w.")}
    towers = build_towers(Description("clip:golden", {**about["model"], "quick_gelu": True}, {}), weights)
    features = towers.features(tiny["images"])
    return towers, Support(tiny["images"], tiny["labels"], features, 5), numbers, config


def names_of(tokens, length):
    """The ids of the names in CoOp's placeholder strings: after the Xs, before the full stop."""
    return [row[1 : int(row.argmax()) - 1].tolist()[-n:] for row, n in zip(tokens, length, strict=True)]


@pytest.mark.parametrize("case", ["end", "middle", "front", "csc_end", "init_words"])
def test_coop_is_its_authors(prompted, case):
    towers, support, numbers, config = prompted
    context, tokens = numbers[f"{case}.ctx"], numbers[f"{case}.tokens"]
    names = names_of(tokens, config["name_lengths"])
    position = case if case in ("middle", "front") else "end"
    prompts = prompts_around(names, (62, 6, 63), context, position, 12)
    table = prompts.table(towers, context)
    expected = numbers[f"{case}.prompts"]
    close(table[prompts.ids][: len(expected)], expected)
    close(prompts.features(towers, context), numbers[f"{case}.text_features"])
    method, trained = CoOp(scale=towers.scale), context.clone().requires_grad_()
    loss = method.loss(towers, prompts, trained, support)
    loss.backward()
    close(loss.detach().reshape(1), numbers[f"{case}.loss"].reshape(1))
    close(trained.grad, numbers[f"{case}.grad_ctx"], rtol=1e-3)


def test_coops_training_is_its_authors(prompted):
    towers, support, numbers, config = prompted
    names = names_of(numbers["end.tokens"], config["name_lengths"])
    context = numbers["end.ctx"]
    prompts = prompts_around(names, (62, 6, 63), context, "end", 12)
    rates = [prompt_lr(epoch, 2e-3, 6) for epoch in range(6)]
    close(torch.tensor(rates), numbers["train.lrs"])
    trained = CoOp(scale=towers.scale).trained(towers, prompts, context, support, rates, Run())
    close(trained, numbers["train.ctx_epoch6"])


def test_coop_begins_with_its_words(clip, easy):
    """Words in the place of the context are the texts that zero-shot reads."""
    support = easy(clip)
    begun = CoOp(context="a photo of a", steps=0).move(clip, support, Run()).head
    close(begun.weight, ZeroShot().fitted(support).weight)
    assert CoOp(steps=2, lr=0.1).move(clip, support, Run()).delta == {}


def test_a_name_that_leaves_no_place_for_the_context_is_refused(clip, easy):
    support = replace(easy(clip), classes=("a very long name of a class " * 2, "b", "c"))
    with pytest.raises(FewshotError, match="16 tokens that are read"):
        CoOp(context=8).move(clip, support, Run())


# --- both towers ------------------------------------------------------------------------------------------------------

TEXT = Tuning(head="text", scale=100.0, augment=0.0, optim=Optim(lr=1e-3, steps=2, batch=5))


def published_task(golden):
    """open_clip's tiny towers with the task of its golden numbers, whose images are normalised already."""
    numbers, config = golden("clip_zero_shot")
    weights = {name[2:]: values for name, values in numbers.items() if name.startswith("w.")}
    towers = build_towers(Description("clip:golden", config["model"], {}), weights)
    as_they_are = Preprocessing((24, 24), 1.0, "center", "bicubic", (0.0,) * 3, (1 / 255,) * 3)
    towers = replace(towers, preprocessing=as_they_are)
    ids = {(f"{k}",): numbers["tokens"][k] for k in range(5)}
    towers.__dict__["_tokenizer"] = lambda texts: torch.stack([row for k in range(5) for row in ids[(f"{k}",)]])
    texts = tuple((f"{k}",) * 3 for k in range(5))
    features = towers.features(numbers["images"])
    support = Support(numbers["images"], numbers["labels"], features, 5)
    return towers, with_texts(towers, support, texts), numbers, config, weights


def test_the_gradient_of_both_towers_is_open_clips_and_so_is_what_saft_takes(golden):
    towers, support, numbers, config, weights = published_task(golden)
    gradient = task_gradient(towers, support, dict(towers.params), Tuning(head="text", scale=towers.scale))
    parts = torch.split(numbers["grad_all"], [weights[name].numel() for name in config["grad_all_order"]])
    shaped = {
        name: part.reshape(weights[name].shape) for name, part in zip(config["grad_all_order"], parts, strict=True)
    }
    expected = canonical(shaped)
    for name, values in gradient.items():
        close(values, expected[name], rtol=1e-3)
    # The positions that SAFT takes, in our names, are those of the largest gradients, in open_clip's.
    order = [row[0] for row in config["candidate_table"]]
    marks = torch.zeros(config["saft_candidates"])
    marks[numbers["saft.mean.top1pct.idx"]] = 1.0
    sizes = [weights[name].numel() for name in order]
    marked = canonical({n: m.reshape(weights[n].shape) for n, m in zip(order, torch.split(marks, sizes), strict=True)})
    moved = SAFT(density=0.01, tuning=TEXT.model_copy(update={"scale": towers.scale})).move(towers, support, Run())
    for name, mark in marked.items():
        found = moved.delta[name].positions if name in moved.delta else torch.empty(0, dtype=torch.long)
        assert torch.equal(found, mark.flatten().nonzero().squeeze(1)), name


@pytest.mark.slow
def test_training_in_parts_of_a_batch_is_training_on_it_at_once(clip, easy):
    """Texts are read once a step, and get the gradient of all parts."""
    support = easy(clip)
    whole = Finetune(tuning=Tuning(head="text", augment=0.0, optim=Optim(name="sgd", lr=0.1, steps=2, batch=None)))
    expected = whole.move(clip, support, Run()).delta
    in_parts = replace(clip)
    in_parts.trained_limit.pictures = 5
    try:
        found = whole.move(in_parts, support, Run()).delta
    finally:
        in_parts.trained_limit.pictures = math.inf
    assert any(name.startswith("text.") for name in expected)
    for name, change in expected.items():
        torch.testing.assert_close(found[name].values, change.values, rtol=1e-3, atol=1e-6)


def test_clip_lora_reaches_query_key_and_value_of_both_towers(clip, easy):
    method = LoRA(parts=("q", "k", "v"), rank=2, alpha=1.0, scaling="alpha/sqrt(rank)", tuning=TEXT)
    moved = method.move(clip, easy(clip), Run())
    changed = {name: change.left @ change.right for name, change in moved.delta.items()}
    assert set(changed) == {
        *(f"visual.blocks.{i}.attn.qkv.weight" for i in range(2)),
        *(f"text.transformer.resblocks.{i}.attn.in_proj_weight" for i in range(2)),
    }
    for name, values in changed.items():
        for third in values.chunk(3):
            assert third.abs().max() > 0, name
    assert method.factor == pytest.approx(1 / math.sqrt(2))


@pytest.mark.slow
def test_the_head_is_what_the_moved_text_tower_says(clip, easy):
    support = easy(clip)
    moved = Finetune(tuning=TEXT).move(clip, support, Run())
    other = clip.moved({name: change.added_to(clip.params[name]) for name, change in moved.delta.items()})
    close(moved.head.weight, 100 * other.class_vectors(support.texts))


def test_without_text_in_the_head_the_text_tower_stays(clip, easy):
    moved = Finetune(tuning=Tuning(optim=Optim(steps=2))).move(clip, easy(clip), Run())
    assert all(name.startswith("visual.") for name in moved.delta)


def test_block_lora_is_lora_of_a_lower_rank_that_moves_further(clip, easy):
    """Blocks that start alike and share what is before them get one gradient: their sum is one B."""
    sgd = Tuning(head="text", scale=100.0, augment=0.0, optim=Optim(name="sgd", momentum=0.0, lr=1e-3, steps=1))
    blocks = LoRA(rank=2, up_blocks=2, alpha=2.0, tuning=sgd).move(clip, easy(clip), Run())
    plain = LoRA(rank=1, alpha=1.0, tuning=sgd).move(clip, easy(clip), Run())
    for name, change in plain.delta.items():
        assert blocks.delta[name].right.shape == change.right.shape
        close(blocks.delta[name].left @ change.right, 2 * change.left @ change.right, rtol=1e-3)


@pytest.mark.slow
def test_two_stages_move_norms_and_then_only_class_vectors(clip, easy):
    support = easy(clip)
    heard = []
    run = Run(watch=lambda step, steps, loss: heard.append((step, steps)))
    moved = TwoStage(tuning=Tuning(scale=100.0, optim=Optim(lr=1e-2, steps=5))).move(clip, support, run)
    assert heard == [(step, 5) for step in range(1, 6)]
    assert all("norm" in name or "ln_" in name for name in moved.delta)
    assert any(name.startswith("text.") for name in moved.delta)
    other = clip.moved({name: change.added_to(clip.params[name]) for name, change in moved.delta.items()})
    begun = 100 * other.class_vectors(support.texts)
    assert (moved.head.weight - begun).abs().max() > 0.1


def test_steps_by_the_number_of_images_of_a_class(clip, easy):
    heard = []
    tuning = Tuning(head="text", optim=Optim(steps=0, steps_per_shot=2))
    run = Run(watch=lambda step, steps, loss: heard.append(steps))
    Finetune(targets="visual|norm", tuning=tuning).move(clip, easy(clip, (3, 3, 3)), run)
    assert heard == [6] * 6


@pytest.mark.parametrize(
    "method", [ZeroShot(), GDA(), ProLIP(), TwoStage(), Finetune(tuning=TEXT), LPPlusPlus(), TipAdapter()]
)
def test_a_backbone_that_reads_no_text_is_refused(method, vit, easy):
    assert method.needs_text
    with pytest.raises(FewshotError) as refused:
        method.adapt(vit, easy(vit), Run())
    assert "clip:MODEL/TAG" in refused.value.hint
