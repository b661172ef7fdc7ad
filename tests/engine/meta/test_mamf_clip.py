"""MAMF on two towers, as published: against the names of a batch's classes, from CLIP's projections or fresh ones."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.adaptation import Run
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.data.crops import draw_views, viewed
from fewshot_cli.engine.data.episode_samplers import Fixed
from fewshot_cli.engine.meta.domain import Domain
from fewshot_cli.engine.meta.loop import Practice
from fewshot_cli.engine.meta.mamf import fresh_heads, task_classes, task_count, trained_on_task
from fewshot_cli.engine.meta.settings import Training, Validation, ViewSettings
from fewshot_cli.engine.meta.task_source import TaskSource, kept_apart
from fewshot_cli.engine.meta.validation import texts_under
from fewshot_cli.engine.model.clip.names import SCALE
from fewshot_cli.engine.model.clip.towers import TwoTowers
from fewshot_cli.engine.rng import Draws
from fewshot_cli.engine.train.settings import Optim, Tuning
from fewshot_cli.errors import FewshotError
from fewshot_cli.meta_recipes import load_meta_recipe
from fewshot_cli.methods.finetune import Finetune
from fewshot_cli.methods.from_bank import DenseContent
from fewshot_cli.methods.mamf import MAMF
from fewshot_cli.methods.meta import SavedBank
from fewshot_cli.recipes import load_recipe

NAMES = ("red stripes", "green chequers", "blue rings", "a hawk")
HEADS = {"visual.head.weight", "text.text_projection"}
SGD = Optim(name="sgd", momentum=0.0, lr=0.05, steps=1, batch=32)


def text_tuning(**settings) -> Tuning:
    return Tuning(**{"head": "text", "scale": 20.0, "augment": 0.0} | settings)


@pytest.mark.parametrize(("loss_classes", "asked"), [("batch", 3), ("task", 4)])
def test_a_step_goes_down_the_loss_over_the_names_of_the_batch(loss_classes, asked, clip, pictures):
    """The fourth class has no image here: in the loss of the batch its name takes no part."""
    images, labels = pictures((3, 2, 2), seed=1)
    texts = class_texts(NAMES)
    tuning = text_tuning(optim=SGD, loss_classes=loss_classes)
    found = trained_on_task(clip.params, clip, images, labels, 4, tuning, Run(), texts)
    weights = {name: values.clone().requires_grad_() for name, values in clip.params.items()}
    seen = F.normalize(clip.features(clip.normalised(images), weights), dim=1)
    said = F.normalize(clip.text_features(clip.tokens([text for (text,) in texts[:asked]]), weights), dim=1)
    F.cross_entropy(20 * seen @ said.T, labels).backward()
    assert found.keys() == weights.keys()
    for name, values in weights.items():
        moved = torch.zeros(()) if values.grad is None else -0.05 * values.grad
        torch.testing.assert_close(found[name] - clip.params[name], moved.expand_as(values), rtol=1e-2, atol=1e-6)


def test_fresh_projections_are_kaimings_and_all_else_is_clips(clip):
    fresh = fresh_heads(clip, seed=3)
    assert fresh.keys() == HEADS
    for name, values in fresh.items():
        width = values.shape[1 if name.startswith("visual") else 0]
        assert values.shape == clip.params[name].shape
        assert float(values.std()) == pytest.approx((2 / width) ** 0.5, rel=0.2)
        assert not values.equal(fresh_heads(clip, seed=4)[name])
        assert values.equal(fresh_heads(clip, seed=3)[name])
    method = MAMF(heads="fresh", tuning=text_tuning())
    bank = method.start(clip, 3)
    assert {name for name in bank if not bank[name].equal(clip.params[name])} == HEADS
    assert all(bank[name].equal(fresh[name]) for name in HEADS)
    kept = MAMF(tuning=text_tuning()).start(clip, 3)
    assert all(kept[name].equal(clip.params[name]) for name in clip.params)


def test_biases_of_projections_are_drawn_where_a_tower_has_them(clip):
    width = clip.params["text.text_projection"].shape[0]
    others = {name: values for name, values in clip.params.items() if name != "text.text_projection"}
    siglip = _with_params(
        clip,
        others | {"text.text_projection.weight": torch.zeros(16, width), "text.text_projection.bias": torch.zeros(16)},
    )
    fresh = fresh_heads(siglip, 0)
    assert fresh.keys() == {"visual.head.weight", "text.text_projection.weight", "text.text_projection.bias"}
    bias = fresh["text.text_projection.bias"]
    assert 0.5 * width**-0.5 < bias.abs().max() <= width**-0.5
    without = {name: values for name, values in others.items() if not name.startswith("text.text_projection")}
    with pytest.raises(FewshotError, match="no linear projection after each tower"):
        fresh_heads(_with_params(clip, without), 0)


def _with_params(towers: TwoTowers, params: dict[str, torch.Tensor]) -> TwoTowers:
    """Towers that say they have these parameters."""
    other = replace(towers)
    other.__dict__["params"] = params
    return other


def test_what_needs_two_towers_is_refused_without(vit):
    with pytest.raises(ValueError, match="would do nothing"):
        MAMF(heads="fresh")
    with pytest.raises(FewshotError, match="has no text tower"):
        MAMF(tuning=text_tuning()).start(vit, 0)


def test_without_names_only_the_image_tower_is_trained(clip, vit):
    assert all(name.startswith("visual.") for name in MAMF().start(clip, 0))
    assert MAMF().start(vit, 0).keys() == vit.params.keys()
    bank = {name: values + 0.1 for name, values in MAMF().start(clip, 0).items()}
    kept = MAMF().saved_bank(bank, clip, 1)
    assert set(kept.shapes) == set(bank)
    torch.testing.assert_close(kept.delta, torch.full_like(kept.delta, 0.1))


@pytest.fixture(scope="module")
def practice(clip, pictures):
    """A run on two data sets of the drawn classes, the second with other names."""

    def begun(method: MAMF, named: bool = True, episodes: int = 2, **training) -> Practice:
        domains = []
        for seed, name in enumerate(("day", "night")):
            domain = Domain.of_pictures(name, *pictures((8, 8, 8), seed), clip)
            texts = class_texts([f"{label} at {name}" for label in NAMES[:3]])
            domains.append(replace(domain, texts=texts) if named else domain)
        how = Training(
            protocol=Fixed(way=3, shots=1, queries=2), epochs=2, validation=Validation(episodes=episodes), **training
        )
        return Practice.start(method, how, TaskSource(clip, *kept_apart(domains, how, 0)))

    return begun


def test_a_run_trains_both_towers_on_the_names_of_the_drawn_classes(practice, clip):
    method = MAMF(way=2, tuning=text_tuning(optim=Optim(lr=1e-3, steps=0, epochs=1, batch=4), loss_classes="batch"))
    run = practice(method)
    assert run.ends[-1] == task_count(6, 2)
    chosen = task_classes(6, 2, 0, 0)
    images, labels, texts = run.trainer._task(0)
    flat = [text for domain in run.source.domains for text in domain.texts]
    assert texts == tuple(flat[c] for c in chosen)
    expected = trained_on_task(clip.params, clip, images, labels, 2, method.tuning, Run(_seed_of_first_task()), texts)
    run.advance()
    assert all(run.bank[name].equal(expected[name]) for name in expected)
    kept = method.saved_bank(run.bank, clip, 1)
    parts = dict(
        zip(kept.shapes, torch.split(kept.delta, [torch.Size(s).numel() for s in kept.shapes.values()]), strict=True)
    )
    assert parts["text.text_projection"].abs().max() > 0 and parts["visual.head.weight"].abs().max() > 0


def test_an_image_is_shown_in_one_view_in_all_passes_of_a_task_and_in_another_in_the_next(practice):
    """As released: crops of 90 % of the area or more, square, flipped or not, drawn when a task begins."""
    method = MAMF(way=6, tasks=2, tuning=text_tuning())
    plain, views = practice(method), ViewSettings(scale=(0.9, 1.0), ratio=(1.0, 1.0), jitter=0.0)
    shown = practice(method, views=views)
    (images, labels, texts), (first, of_first, texts_of_first) = plain.trainer._task(0), shown.trainer._task(0)
    assert labels.equal(of_first) and texts == texts_of_first
    assert first.shape == images.shape and first.dtype == torch.uint8 and not first.equal(images)
    assert first.equal(practice(method, views=views).trainer._task(0)[0])
    drawn = draw_views(Draws(0, "mamf views", 0), len(images), (0.9, 1.0), (1.0, 1.0), 0.0)
    area = drawn.boxes[:, 2] * drawn.boxes[:, 3]
    assert area.min() >= 0.9 and area.max() <= 1 and drawn.boxes[:, 2].equal(drawn.boxes[:, 3])
    torch.testing.assert_close(first.float(), 255 * viewed(images.float() / 255, drawn), rtol=0, atol=0.5 + 1e-4)
    order, second = task_classes(6, 6, 0, 1).tolist(), shown.trainer._task(1)[0]
    again = torch.cat([second[plain.trainer._task(1)[1] == order.index(c)] for c in task_classes(6, 6, 0, 0)])
    assert not again.equal(first)


def _seed_of_first_task() -> int:
    from fewshot_cli.engine.meta.mamf import task_seed

    return task_seed(0, 0)


def test_a_learned_scale_is_trained_from_task_to_task_and_stored(practice, clip):
    quick = Optim(lr=0.01, steps=2, epochs=0, batch=4)
    method = MAMF(way=2, tasks=2, tuning=text_tuning(scale="learned", optim=quick))
    run = practice(method)
    assert float(run.bank[SCALE]) == pytest.approx(math.log(clip.scale))
    scales = [run.bank[SCALE].item()]
    for _ in range(2):
        run.advance()
        scales.append(run.bank[SCALE].item())
    assert len({round(scale, 4) for scale in scales}) == 3
    assert all(abs(after - before) < 0.021 for before, after in pairwise(scales))  # two Adam steps
    kept = method.saved_bank(run.bank, clip, 2)
    assert kept.tensors.keys() == {SCALE} and kept.tensors[SCALE].item() == scales[-1]
    assert kept.shapes.keys() == clip.params.keys()
    assert run.end_epoch().accuracy is not None
    assert SCALE not in MAMF(tuning=text_tuning()).start(clip, 0)
    assert not MAMF(tuning=text_tuning()).saved_bank(clip.params, clip, 2).tensors


def test_a_task_begins_at_the_scale_of_a_bank(clip):
    moves = {"visual.head.weight": torch.zeros(16, 64)}
    shapes = {name: tuple(values.shape) for name, values in moves.items()}

    def bank(**tensors) -> SavedBank:
        return SavedBank("dense", shapes, torch.ones(16 * 64), tensors=tensors)

    moved, delta = DenseContent.of(bank(logit_scale=torch.tensor(3.0)), clip).moved(clip, None)
    assert moved.scale == pytest.approx(math.exp(3.0)) and delta.keys() == moves.keys()
    plain, _ = DenseContent.of(bank(), clip).moved(clip, None)
    assert plain.scale == clip.scale
    for wrong in (torch.tensor(50.0), torch.zeros(2)):
        with pytest.raises(ValueError, match="not the logarithm of a scale"):
            DenseContent.of(bank(logit_scale=wrong), clip)


def test_a_backbone_without_texts_has_no_scale_to_begin_at(vit):
    norm = {"norm.weight": (64,)}
    bank = SavedBank("dense", norm, torch.zeros(64), tensors={SCALE: torch.tensor(3.0)})
    with pytest.raises(ValueError, match="of two towers"):
        DenseContent.of(bank, vit)


def test_validation_is_zero_shot_by_the_moved_towers(practice, clip):
    run = practice(MAMF(way=2, tuning=text_tuning()))
    domain, training = run.source.validation[0], run.training
    task = domain.task(training.protocol, clip, 5, 0, None)
    assert {text for (text,) in task.texts} == {text for (text,) in domain.texts}
    weights = {name: values * 1.1 for name, values in clip.params.items()}
    found = texts_under(run.source.passes, clip, weights)(task)
    read = F.normalize(clip.text_features(clip.tokens([text for (text,) in task.texts]), weights), dim=1)
    seen = F.normalize(clip.features(task.query_images, weights), dim=1)
    torch.testing.assert_close(found.argmax(1), (seen @ read.T).argmax(1))
    torch.testing.assert_close(found / found.abs().max(), seen @ read.T / (seen @ read.T).abs().max())


def test_the_classes_kept_apart_keep_their_texts(practice):
    run = practice(MAMF(way=2, tuning=text_tuning()))
    for domain in (*run.source.domains, *run.source.validation):
        assert len(domain.texts) == len(domain.pool.classes)
        for name, (text,) in zip(domain.pool.classes, domain.texts, strict=True):
            assert NAMES[int(name)] in text and domain.source in text


def test_the_recipe_is_the_authors():
    method = load_meta_recipe("mamf-clip", backbone="clip:tiny").method
    assert isinstance(method, MAMF) and method.needs_text and method.heads == "clip" and method.tasks == "auto"
    tuning = method.tuning
    assert (tuning.optim.name, tuning.optim.lr, tuning.optim.epochs, tuning.optim.batch) == ("adam", 1e-6, 8, 32)
    assert (tuning.scale, tuning.loss_classes, tuning.augment) == (100, "batch", 0)


def test_the_recipes_of_the_release_are_its_settings():
    """Both steps of the released script: what each trains, how, and that nothing is chosen by validation."""
    recipe = load_meta_recipe("mamf-clip-release", backbone="clip:tiny")
    method, training, task = recipe.method, recipe.training, load_recipe("mamf-clip-task", backbone="clip:tiny").method
    assert isinstance(method, MAMF) and method.heads == "fresh" and method.tasks == "auto"
    assert isinstance(task, Finetune) and task.targets == "."
    for tuning, how in ((method.tuning, (1e-6, 8, 32)), (task.tuning, (1e-7, 5, 8))):
        optim = tuning.optim
        assert (optim.name, optim.lr, optim.epochs, optim.batch, optim.steps, optim.weight_decay) == (
            "adam",
            *how,
            0,
            0,
        )
        assert (tuning.head, tuning.scale, tuning.loss_classes, tuning.augment) == ("text", "learned", "batch", 0)
    assert training.views == ViewSettings(scale=(0.9, 1.0), ratio=(1.0, 1.0), jitter=0.0)
    assert training.validation.episodes == 0
