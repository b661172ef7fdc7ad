"""A class by its name alone: the classifier is that of all names at once, and its texts follow whatever is changed."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from fewshot_cli.engine.delta.change import merge
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file
from fewshot_cli.jobs.classify.adapt import AdaptSettings, adapt
from fewshot_cli.jobs.classify.from_names import adapt_to_names
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.edit.add_class import add_class
from fewshot_cli.jobs.edit.add_name import add_name
from fewshot_cli.jobs.edit.remove_class import remove_class
from fewshot_cli.jobs.edit.rename_class import rename_class
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.compose import ComposeSettings, compose
from fewshot_cli.jobs.share.describe import inspect
from fewshot_cli.jobs.share.model_card import card_of
from fewshot_cli.jobs.share.verify import verify
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")
NO_TRAINING = ("method.tuning.optim.steps=1", "method.tuning.optim.epochs=0", "method.tuning.optim.steps_per_shot=0")


@pytest.fixture
def context(towers_file):
    return JobContext(Source(towers_file, offline=True), CPU, NoCache(), NoProgress())


@pytest.fixture
def named(context, tmp_path):
    """A classifier of these names alone; gives its path."""

    def named(names, file="a.fewshot", values="float32", **given):
        what = load_recipe("zero-shot", (), backbone="clip:tiny", **given)
        adapt_to_names(names, tmp_path / file, AdaptSettings(what, values=values), context)
        return tmp_path / file

    return named


@pytest.fixture
def learned(context, drawn, tmp_path):
    """A classifier of drawn images by a recipe; gives its path."""

    def learned(recipe, *changes, keep=False, file="a.fewshot"):
        what = load_recipe(recipe, changes, backbone="clip:tiny")
        adapt(drawn, tmp_path / file, AdaptSettings(what, folds=0, keep_support=keep), context)
        return tmp_path / file

    return learned


def same_head(one, other):
    first, second = read_delta_file(one), read_delta_file(other)
    assert first.header.classes == second.header.classes
    assert first.header.provenance.texts == second.header.provenance.texts
    torch.testing.assert_close(first.head.weight, second.head.weight, rtol=0, atol=0.1)  # of logits up to 100


@pytest.mark.slow
def test_a_name_added_is_as_if_named_with_the_others(named, context, tmp_path):
    templates = ["a drawing of a {}.", "{}"]
    file = named(["star", "cat"], template=templates)
    result = add_name(file, "snow_owl", tmp_path / "b.fewshot", context)
    same_head(tmp_path / "b.fewshot", named(["star", "cat", "snow_owl"], "all.fewshot", template=templates))
    assert result.classes == ("cat", "snow_owl", "star") and result.classes_before == ("cat", "star")
    assert result.texts == {"snow_owl": ("a drawing of a snow owl.", "snow owl")}
    assert result.added == {"snow_owl": 0} and result.expected_accuracy.mean is None
    before, after = read_delta_file(file), read_delta_file(tmp_path / "b.fewshot")
    assert after.head.weight[[0, 2]].equal(before.head.weight)
    assert after.header.provenance.parents == (before.digest,)
    assert json.loads((tmp_path / "b.fewshot.run.json").read_text())["command"] == "add-class"
    assert verify(tmp_path / "b.fewshot", context.source, CPU)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["finetune-clip", "clip-lora", "prolip", "clip-adapter"])
def test_a_trained_text_tower_reads_the_new_name_as_the_file_moves_it(recipe, learned, context, tmp_path):
    changes = [*NO_TRAINING, "method.tuning.optim.lr=1e-2"] if "clip-a" not in recipe and recipe != "prolip" else []
    changes = changes or ["method.steps=2"]
    file = learned(recipe, *changes)
    add_name(file, "hawk", tmp_path / "b.fewshot", context)
    loaded = load_model(tmp_path / "b.fewshot", context.source, CPU)
    row = loaded.classes.index("hawk")
    moved = merge({name: loaded.backbone.params[name] for name in loaded.file.delta}, loaded.file.delta)
    read = loaded.backbone.class_vectors([("a photo of a hawk.",)], moved)
    assert F.cosine_similarity(loaded.head.weight[[row]], read).item() > 0.99999
    if any(name.startswith("text.") for name in moved):
        plain = loaded.backbone.class_vectors([("a photo of a hawk.",)])
        assert F.cosine_similarity(loaded.head.weight[[row]], plain).item() < 0.99998
    assert loaded.file.delta.keys() == read_delta_file(file).delta.keys()
    assert (loaded.file.graft is not None) == (recipe == "clip-adapter")


@pytest.mark.slow
def test_images_that_a_file_keeps_stay_in_their_classes(learned, context, tmp_path):
    file = learned("zero-shot", keep=True)
    add_name(file, "dog", tmp_path / "b.fewshot", context)
    before, after = read_delta_file(file), read_delta_file(tmp_path / "b.fewshot")
    assert after.header.classes == ("cat", "dog", "house", "star")
    names = [[each.header.classes[label] for label in each.support.labels] for each in (before, after)]
    assert names[0] == names[1] and after.header.provenance.held_out is None


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ridge", "gda", "taskres", "clap"])
def test_a_classifier_that_learns_classes_from_images_is_refused(recipe, learned, context, tmp_path):
    changes = ["method.epochs=1"] if recipe == "clap" else []
    with pytest.raises(FewshotError, match=f"by {recipe} its classes are more than what texts say"):
        add_name(learned(recipe, *changes), "dog", tmp_path / "b.fewshot", context)


@pytest.mark.slow
def test_class_vectors_that_images_moved_on_are_refused(learned, context, tmp_path):
    steps = ["method.tuning.optim.steps=5", *NO_TRAINING[1:], "method.tuning.optim.lr=1e-2"]
    with pytest.raises(FewshotError, match="not what the texts that it names give"):
        add_name(learned("2sfs", *steps), "dog", tmp_path / "b.fewshot", context)


def test_names_that_can_not_be_added_are_refused(named, context, tmp_path):
    file = named(["star", "cat"])
    for name, says in (("cat", "already"), (" ", "can't be called")):
        with pytest.raises(FewshotError, match=says):
            add_name(file, name, tmp_path / "b.fewshot", context)
    assert not (tmp_path / "b.fewshot").exists()


def test_a_backbone_without_a_text_tower_is_refused(learn, drawn, source, tmp_path):
    learn(drawn, tmp_path / "a.fewshot", keep_support=True)
    with pytest.raises(FewshotError, match="which reads no names"):
        add_name(
            tmp_path / "a.fewshot", "dog", tmp_path / "b.fewshot", JobContext(source, CPU, NoCache(), NoProgress())
        )


@pytest.mark.parametrize("wrong", ["texts", "rows", "lengths"])
def test_vectors_that_are_not_what_the_texts_give_are_refused(wrong, named, context, tmp_path):
    file = read_delta_file(named(["star", "cat"]))
    header, weight = file.header, file.head.weight.clone()
    if wrong == "texts":
        provenance = header.provenance.model_copy(update={"texts": {"star": ("a sun",), "cat": ("a pet",)}})
        header = header.model_copy(update={"provenance": provenance})
    weight = {"rows": weight.roll(1, 0), "lengths": weight * torch.tensor([[1.0], [1.1]])}.get(wrong, weight)
    head = type(file.head)(weight, file.head.bias, file.head.unit_norm)
    write_delta_file(tmp_path / "w.fewshot", header, {}, head, "float32", "float32")
    with pytest.raises(FewshotError, match="not what the texts that it names give"):
        add_name(tmp_path / "w.fewshot", "dog", tmp_path / "b.fewshot", context)


def test_texts_follow_a_class_that_is_renamed(named, tmp_path):
    rename_class(named(["star", "cat"]), "cat", "zebra", tmp_path / "b.fewshot")
    told = inspect(tmp_path / "b.fewshot").texts
    assert told == {"star": ("a photo of a star.",), "zebra": ("a photo of a cat.",)}


@pytest.mark.slow
def test_a_class_may_be_added_to_one_that_was_renamed(named, context, tmp_path):
    rename_class(named(["star", "cat"]), "cat", "zebra", tmp_path / "b.fewshot")
    add_name(tmp_path / "b.fewshot", "dog", tmp_path / "c.fewshot", context)
    assert inspect(tmp_path / "c.fewshot").texts["dog"] == ("a photo of a dog.",)


@pytest.mark.slow
def test_texts_of_a_class_go_with_it(learned, tmp_path):
    """Training began at the texts of all classes; the head is ridge, so that it can be fitted without one."""
    file = learned("bitfit-ridge", *NO_TRAINING[:2], keep=True)
    assert set(inspect(file).texts) == {"cat", "house", "star"}
    remove_class(file, "house", tmp_path / "b.fewshot")
    assert inspect(tmp_path / "b.fewshot").texts == {"cat": ("a photo of a cat.",), "star": ("a photo of a star.",)}


@pytest.mark.parametrize("values", ["float32", "float16"])
def test_a_class_of_names_alone_goes_and_the_others_stay_to_the_bit(values, context, named, tmp_path):
    file = named(["star", "cat", "house"], values=values)
    result = remove_class(file, "cat", tmp_path / "b.fewshot")
    before, after = read_delta_file(file), read_delta_file(tmp_path / "b.fewshot")
    assert after.head.weight.equal(before.head.weight[1:]) and after.head.bias.equal(before.head.bias[1:])
    assert after.header.classes == ("house", "star") and after.header.provenance.parents == (before.digest,)
    assert result.removed == {"cat": 0} and result.images == 0 and result.expected_accuracy.mean is None
    told = inspect(tmp_path / "b.fewshot").texts
    assert told == {"house": ("a photo of a house.",), "star": ("a photo of a star.",)}
    assert verify(tmp_path / "b.fewshot", context.source, CPU)


@pytest.mark.slow
def test_a_name_that_came_goes_again_and_so_does_one_of_a_composition(named, context, tmp_path):
    first = named(["star", "cat"])
    add_name(first, "dog", tmp_path / "b.fewshot", context)
    remove_class(tmp_path / "b.fewshot", "dog", tmp_path / "c.fewshot")
    assert read_delta_file(tmp_path / "c.fewshot").head.weight.equal(read_delta_file(first).head.weight)
    other = named(["owl", "kite"], "other.fewshot")
    compose([first, other], tmp_path / "d.fewshot", ComposeSettings(), NoProgress())
    remove_class(tmp_path / "d.fewshot", "cat", tmp_path / "e.fewshot")
    composed, left = read_delta_file(tmp_path / "d.fewshot"), read_delta_file(tmp_path / "e.fewshot")
    assert left.header.classes == ("kite", "owl", "star") and left.head.weight.equal(composed.head.weight[1:])


@pytest.mark.slow
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("recipe", "says"), [("zero-shot", "rests on texts"), ("prolip", "was trained along")])
def test_what_learned_from_images_by_texts_says_what_helps(recipe, says, keep, learned, tmp_path):
    """`--keep-support`, which helps formulas of features, would not help here."""
    file = learned(recipe, *(["method.steps=2"] if recipe == "prolip" else []), keep=keep)
    with pytest.raises(FewshotError, match=f"by {recipe} it {says}") as refused:
        remove_class(file, "cat", tmp_path / "b.fewshot")
    assert refused.value.hint.startswith("Learn it anew from the images of the classes that you want")


def test_images_of_a_class_of_names_alone_are_refused_with_the_way_by_name(named, drawn, context, tmp_path):
    with pytest.raises(FewshotError, match="made from the names of its classes alone") as refused:
        add_class(named(["star", "cat"]), drawn / "house", None, tmp_path / "b.fewshot", context)
    assert "--name NAME" in refused.value.hint


@pytest.mark.slow
def test_texts_that_made_nothing_are_not_told(learned):
    assert inspect(learned("ridge")).texts is None


def test_the_card_and_a_composition_say_what_was_read(named, tmp_path):
    one, other = named(["star", "cat"]), named(["dog", "cat"], "b.fewshot", template=["a drawing of a {}."])
    card = card_of(inspect(one))
    assert "the mean direction of what the text tower" in card and "cat: a photo of a cat." in card.replace("\\", "")
    shutil.copy(other, tmp_path / "other.fewshot")
    compose([one, tmp_path / "other.fewshot"], tmp_path / "c.fewshot", ComposeSettings(), NoProgress())
    assert inspect(tmp_path / "c.fewshot").texts == {
        "star": ("a photo of a star.",),
        "cat": ("a photo of a cat.", "a drawing of a cat."),
        "dog": ("a drawing of a dog.",),
    }
