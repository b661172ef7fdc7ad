"""Names of classes as knowledge: from folders, from names.csv, from --names alone, in templates."""

import json
import subprocess
import sys

import pytest
import torch

from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.images.sources.class_names import descriptions
from fewshot_cli.jobs.classify.adapt import AdaptSettings, adapt
from fewshot_cli.jobs.classify.from_names import adapt_to_names
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")


@pytest.fixture
def context(towers_file):
    return JobContext(Source(towers_file, offline=True), CPU, NoCache(), NoProgress())


def recipe(name="zero-shot", *changes, **given):
    return load_recipe(name, changes, backbone="clip:tiny", **given)


def test_texts_are_templates_with_names_or_what_is_said_of_them():
    told = class_texts(["snow_owl", "kite"], ["a {}.", "{} in flight, a {}"], {"kite": ["a bird", "a toy"]})
    assert told == (
        ("a snow owl.", "snow owl in flight, a snow owl"),
        ("a a bird.", "a a toy.", "a bird in flight, a a bird", "a toy in flight, a a toy"),
    )
    assert class_texts(["kite"]) == (("a photo of a kite.",),)


@pytest.mark.slow
def test_names_alone_make_a_classifier_of_the_mean_directions_of_its_texts(context, tmp_path):
    what = recipe(template=["a drawing of a {}.", "{}"])
    result = adapt_to_names(["star ", "house", "snow_owl"], tmp_path / "a.fewshot", AdaptSettings(what), context)
    assert result.classes == ("house", "snow_owl", "star")
    assert (result.images, result.expected_accuracy.mean) == (0, None)
    loaded = load_model(tmp_path / "a.fewshot", context.source, CPU)
    texts = loaded.file.header.provenance.texts
    assert texts["snow_owl"] == ("a drawing of a snow owl.", "snow owl")
    vectors = loaded.backbone.class_vectors([texts[name] for name in result.classes])
    head = torch.nn.functional.normalize(loaded.head.weight, dim=1)
    torch.testing.assert_close(head, vectors, rtol=0, atol=2e-3)
    assert loaded.head.unit_norm


@pytest.mark.slow
def test_the_same_names_in_another_order_are_the_same_file(context, tmp_path):
    for name, order in (("a", ["cat", "house"]), ("b", ["house", "cat"])):
        adapt_to_names(order, tmp_path / f"{name}.fewshot", AdaptSettings(recipe()), context)
    assert (tmp_path / "a.fewshot").read_bytes() == (tmp_path / "b.fewshot").read_bytes()


@pytest.mark.parametrize(("names", "says"), [("cat", "two classes"), ("cat,,dog", "two classes"), ("a,b,a", "twice")])
def test_names_that_are_no_classes_are_refused(context, tmp_path, names, says):
    with pytest.raises(FewshotError, match=says):
        adapt_to_names(names.split(","), tmp_path / "a.fewshot", AdaptSettings(recipe()), context)


def test_a_recipe_that_learns_from_images_is_refused(context, tmp_path):
    with pytest.raises(FewshotError, match="learns from images"):
        adapt_to_names(["cat", "dog"], tmp_path / "a.fewshot", AdaptSettings(recipe("gda")), context)


@pytest.mark.slow
def test_names_csv_says_more_than_the_folders(context, photos, tmp_path):
    (photos / "names.csv").write_text('class,description\ncat,"a small tiger"\ncat,a pet\nstar,a sun\n')
    known = descriptions(photos, ("cat", "house", "star"))
    assert known == {"cat": ("a small tiger", "a pet"), "star": ("a sun",)}
    adapt(photos, tmp_path / "a.fewshot", AdaptSettings(recipe("zero-shot", template=["{}"])), context)
    told = read_delta_file(tmp_path / "a.fewshot").header.provenance.texts
    assert told == {"cat": ("a small tiger", "a pet"), "house": ("house",), "star": ("a sun",)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("dog,a pet\n", "there is no class 'dog'"),
        ("cat\n", "line 1"),
        ("cat,\n", "line 1"),
        ('cat,"a pet\n', "can't be read"),
        ("class,description\ncat,a,b\n", "line 2"),
    ],
)
def test_a_names_csv_that_is_wrong_is_refused_with_its_line(photos, content, says):
    (photos / "names.csv").write_text(content)
    with pytest.raises(FewshotError, match=says):
        descriptions(photos, ("cat", "house", "star"))


@pytest.mark.slow
def test_a_template_changes_the_answers(context, drawn, tmp_path):
    for name, template in (("a", None), ("b", ["{} {} {}"])):
        adapt(drawn, tmp_path / f"{name}.fewshot", AdaptSettings(recipe(template=template)), context)
    first, second = (load_model(tmp_path / f"{name}.fewshot", context.source, CPU).head for name in "ab")
    assert (first.weight - second.weight).abs().max() > 0.1


@pytest.mark.parametrize(
    ("template", "backbone", "says"),
    [(["a photo"], "clip:tiny", "has no {} for the name"), (["a {}"], "test_vit", "would do nothing")],
)
def test_a_template_that_does_nothing_is_refused(template, backbone, says):
    with pytest.raises(FewshotError, match=says):
        load_recipe("ridge", template=template, backbone=backbone)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip-lora", "block-lora", "saft-clip", "finetune-clip", "2sfs"])
def test_both_towers_are_trained_proved_and_kept(context, drawn, tmp_path, name):
    few = ["method.tuning.optim.steps=2", "method.tuning.optim.epochs=0", "method.tuning.optim.steps_per_shot=0"]
    what = recipe(name, *few, "method.tuning.optim.lr=1e-3")
    result = adapt(drawn, tmp_path / "a.fewshot", AdaptSettings(what, folds=0, values="float32"), context)
    assert result.max_abs_diff < 1e-3
    towers = {parameter.partition(".")[0] for parameter in read_delta_file(tmp_path / "a.fewshot").delta}
    assert towers == {"visual", "text"}


def test_a_backbone_without_text_is_refused_before_it_is_loaded(drawn, tmp_path, context):
    what = load_recipe("gda", backbone="vit_base_patch16_224")
    with pytest.raises(FewshotError, match="reads no texts"):
        adapt(drawn, tmp_path / "a.fewshot", AdaptSettings(what), context)


def run(*words):
    done = subprocess.run(
        [sys.executable, "-m", "fewshot_cli", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_the_command_takes_names_or_a_folder_and_not_both(tmp_path, towers_file, drawn):
    model = ("--backbone", "clip:tiny", "--weights", towers_file, "-o", tmp_path / "a.fewshot")
    code, out, _ = run("adapt", "--names", "cat,house", *model, "--json")
    assert (code, json.loads(out)["classes"]) == (0, ["cat", "house"])
    code, _, error = run("adapt", drawn, "--names", "cat,house", *model)
    assert code == 2 and "FOLDER is of images" in error
    code, _, error = run("adapt", *model)
    assert code == 2 and "neither a FOLDER" in error


@pytest.mark.slow
def test_episodes_tell_the_classes_of_each_task(tmp_path, towers_file, drawn):
    code, _, error = run(
        *("eval", "zero-shot", "gda", "--data", drawn, "--way", "2", "--shots", "1", "--queries", "2"),
        *("--episodes", "4", "--backbone", "clip:tiny", "--weights", towers_file, "-o", tmp_path / "r.json", "--json"),
    )
    assert code == 0, error
    results = json.loads((tmp_path / "r.json").read_text())["results"]
    zero_shot, gda = (next(iter(of_each.values()))["accuracy"] for of_each in results.values())
    assert len(zero_shot) >= 4
    assert zero_shot == gda  # with one image of each class the Gaussians know nothing
