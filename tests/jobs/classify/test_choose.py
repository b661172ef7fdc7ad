"""`adapt` without a recipe: heads are raced on images left out, and training is tried where the budget has room."""

import json
from dataclasses import replace

import pytest
import torch

from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.classify import choose as choosing
from fewshot_cli.jobs.classify.adapt import estimated
from fewshot_cli.jobs.classify.choose import (
    HEADS,
    HEADS_WITH_TEXT,
    MANY,
    ChoiceSettings,
    adapt_by_choice,
    choose,
    usual_head,
)
from fewshot_cli.jobs.models.backbones import Source
from tests.jobs.conftest import context

TINY = {"backbone": "test_vit", "image_size": 64}


@pytest.fixture
def asked() -> ChoiceSettings:
    """No time to train, so that heads alone are raced."""
    return ChoiceSettings(TINY, budget=0)


@pytest.mark.slow
def test_the_file_is_that_of_the_recipe_which_was_taken(asked, drawn, tmp_path, source, learn):
    result = adapt_by_choice(drawn, tmp_path / "x.fewshot", asked, context(source))
    (taken,) = [candidate for candidate in result.candidates if candidate.chosen]
    assert [candidate.recipe for candidate in result.candidates][: len(HEADS)] == list(HEADS)
    assert result.method == taken.recipe == read_delta_file(tmp_path / "x.fewshot").header.recipe["method"]["name"]
    learn(drawn, tmp_path / "same.fewshot", taken.recipe, values="float16")
    assert (tmp_path / "same.fewshot").read_bytes() == (tmp_path / "x.fewshot").read_bytes()
    assert json.loads((tmp_path / "x.fewshot.run.json").read_text())["advice"] == result.advice


@pytest.mark.slow
def test_choose_writes_nothing_and_says_the_same(asked, drawn, tmp_path, source):
    table = choose(drawn, asked, context(source))
    learned = adapt_by_choice(drawn, tmp_path / "x.fewshot", asked, context(source))
    assert [one.accuracy for one in table.candidates] == [one.accuracy for one in learned.candidates]
    assert table.report()["candidates"][0].keys() == {
        *("recipe", "backbone", "accuracy", "low", "high", "seconds", "chosen", "why"),
    }
    assert [path.name for path in tmp_path.iterdir() if "fewshot" in path.name and "run" not in path.name] == [
        "x.fewshot"
    ]


@pytest.mark.slow
def test_training_is_tried_where_there_is_room_and_advised_where_not(asked, drawn, source, monkeypatch):
    monkeypatch.setattr(choosing, "NEARLY_ALL", 2.0)
    monkeypatch.setattr(choosing, "training_seconds", lambda *_: 70.0)
    short = choose(drawn, asked, context(source))
    assert "--budget 90" in short.advice and short.candidates[-1].accuracy is None
    assert short.candidates[-1].recipe == "bitfit" and "not tried" in short.candidates[-1].why
    quick = ("method.tuning.optim.steps=1", "method.tuning.optim.epochs=0")
    whole = choosing.load_recipe
    monkeypatch.setattr(
        choosing, "load_recipe", lambda name, **given: whole(name, quick if name == "bitfit" else (), **given)
    )
    tried = choose(drawn, ChoiceSettings(TINY, budget=1000), context(source))
    assert tried.candidates[-1].recipe == "bitfit" and tried.candidates[-1].accuracy is not None


@pytest.mark.slow
def test_training_is_compared_with_a_head_that_learned_from_as_few(drawn, source, monkeypatch):
    monkeypatch.setattr(choosing, "NEARLY_ALL", 2.0)
    quick = ("method.tuning.optim.steps=1", "method.tuning.optim.epochs=0")
    whole = choosing.load_recipe
    monkeypatch.setattr(
        choosing, "load_recipe", lambda name, **given: whole(name, quick if name == "bitfit" else (), **given)
    )
    raced = []
    monkeypatch.setattr(choosing, "chosen", lambda logits, labels, usual=0: raced.append(logits) or 0)
    table = choose(drawn, ChoiceSettings(TINY, budget=1000), context(source))
    one_by_one, (_, in_halves) = raced[0][0], raced[-1]
    assert table.candidates[-1].chosen
    assert in_halves.shape == one_by_one.shape and not torch.allclose(in_halves, one_by_one)


def test_with_one_image_of_each_class_the_best_as_a_rule_is_taken(asked, tmp_path, source):
    write_folder(tmp_path / "one", ("cat", "house"), 1, seed=0, size=64)
    table = choose(tmp_path / "one", asked, context(source))
    assert [one.recipe for one in table.candidates if one.chosen] == [HEADS[0]]
    assert all(one.accuracy is None for one in table.candidates) and "Nothing can be said" in table.advice


def test_a_clearly_better_head_is_taken(asked, drawn, source, monkeypatch):
    monkeypatch.setattr(choosing, "chosen", lambda logits, labels, usual: 2)
    table = choose(drawn, asked, context(source))
    assert [one.recipe for one in table.candidates if one.chosen] == [HEADS[2]]


def test_the_usual_head_depends_on_the_fewest_images_of_a_class():
    many, fewer = torch.arange(3).repeat_interleave(MANY), torch.arange(3).repeat_interleave(MANY)[1:]
    assert HEADS[usual_head(HEADS, many)] == "ridge"
    assert usual_head(HEADS, fewer) == 0
    assert usual_head(HEADS_WITH_TEXT, many) == 0


def test_with_many_images_the_table_says_that_ridge_is_the_best_as_a_rule(asked, tmp_path, source):
    write_folder(tmp_path / "many", ("cat", "house"), MANY, seed=0, size=32)
    (taken,) = [one for one in choose(tmp_path / "many", asked, context(source)).candidates if one.chosen]
    assert (taken.recipe, taken.why) == ("ridge", "the best as a rule, and none is clearly better")


def test_beside_heads_that_read_names_all_are_judged_in_the_same_halves(drawn, towers_file, monkeypatch):
    judged, in_folds = [], choosing.in_folds

    def seen(adaptation, *rest):
        judged.append(adaptation.learner.name)
        return in_folds(adaptation, *rest)

    monkeypatch.setattr(choosing, "in_folds", seen)
    settings = ChoiceSettings({"backbone": "clip:tiny"}, budget=0)
    choose(drawn, settings, context(Source(towers_file, offline=True)))
    assert judged == list(HEADS_WITH_TEXT)


@pytest.fixture
def quick_training(monkeypatch):
    """Training is always tried, and is a single step."""
    monkeypatch.setattr(choosing, "NEARLY_ALL", 2.0)
    quick, whole = ("method.tuning.optim.steps=1", "method.tuning.optim.epochs=0"), choosing.load_recipe
    monkeypatch.setattr(
        choosing, "load_recipe", lambda name, **given: whole(name, quick if name == "bitfit" else (), **given)
    )


def raced(drawn, towers_file, monkeypatch, answers=None):
    """The table of a race with training on two towers; `answers` say by recipe how right heads are in halves."""
    in_folds = choosing.in_folds

    def answered(adaptation, *rest):
        found = in_folds(adaptation, *rest)
        truth = torch.nn.functional.one_hot(found.labels, 3).float()
        return replace(found, logits=answers[adaptation.learner.name] * truth)

    if answers:
        monkeypatch.setattr(choosing, "in_folds", answered)
    settings = ChoiceSettings({"backbone": "clip:tiny"}, budget=1000)
    table = choose(drawn, settings, context(Source(towers_file, offline=True)))
    assert table.candidates[-1].recipe == "bitfit" and table.candidates[-1].accuracy is not None
    return table.candidates


@pytest.mark.slow
def test_training_that_is_not_clearly_better_leaves_names_their_worth(quick_training, drawn, towers_file, monkeypatch):
    *heads, trained = raced(drawn, towers_file, monkeypatch)
    assert not trained.chosen and trained.why == "not clearly better on images left out"
    assert any(head.chosen for head in heads)


@pytest.mark.slow
@pytest.mark.parametrize("strong", ["gda", "zero-shot", None])
def test_training_must_be_clearly_better_than_every_head_that_reads_names(
    strong, quick_training, drawn, towers_file, monkeypatch
):
    answers = dict.fromkeys(HEADS_WITH_TEXT, -1.0) | ({strong: 9.0} if strong else {})
    monkeypatch.setattr(choosing, "estimated", lambda *given: certain(estimated(*given)))
    *_, trained = raced(drawn, towers_file, monkeypatch, answers)
    assert trained.chosen == (strong is None)


def certain(found):
    """The held-out answers, all right."""
    return replace(found, logits=torch.nn.functional.one_hot(found.labels, found.logits.shape[1]).float())


@pytest.mark.slow
def test_two_towers_keep_their_texts_in_the_race(drawn, towers_file, tmp_path):
    settings = ChoiceSettings({"backbone": "clip:tiny"}, budget=0)
    result = adapt_by_choice(drawn, tmp_path / "x.fewshot", settings, context(Source(towers_file, offline=True)))
    assert [candidate.recipe for candidate in result.candidates][: len(HEADS_WITH_TEXT)] == list(HEADS_WITH_TEXT)
