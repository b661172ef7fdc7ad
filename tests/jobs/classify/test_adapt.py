import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fewshot_cli.engine.adaptation import Run, Support
from fewshot_cli.engine.data.class_texts import class_texts
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.model.model import Model
from fewshot_cli.engine.train.text import with_texts
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file
from fewshot_cli.formats.delta.sections import KeptHead
from fewshot_cli.images.decode import load
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.classify import adapt as adapting
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.models.classifiers import read_on_one_base
from fewshot_cli.jobs.proofs import delta_file
from fewshot_cli.jobs.proofs.logits import TOLERANCE
from fewshot_cli.meta_recipes import recipe_names
from fewshot_cli.recipes import DEFAULT_BACKBONE, Recipe, load_recipe
from fewshot_cli.storage.feature_cache import FeatureCache

QUICK = "method.tuning.optim.steps=2"
ONLY = (QUICK, "method.tuning.optim.epochs=0", "method.tuning.optim.steps_per_shot=0")


def trained(name: str) -> bool:
    return hasattr(load_recipe(name).method, "tuning")


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names(Recipe))
def test_every_recipe_writes_a_file_that_gives_what_it_learned(
    name, drawn, tmp_path, learn, predict, vit, towers_file, source
):
    """Against the definition: the method on the pictures' features, and its answers sharpened by the file's factor."""
    file = tmp_path / "deep" / "x.fewshot"
    changes = ONLY if trained(name) else ()
    recipe, backbone, which, where = load_recipe(name, changes), vit, {}, source
    if recipe.learner.needs_text:
        where = Source(towers_file, offline=True)
        backbone = load_backbone("clip:tiny", where, None, torch.device("cpu"))
        which = {"backbone": backbone.name, "weights_file": towers_file, "image_size": None}
    report = learn(drawn, file, name, *changes, **which)

    paths = sorted(drawn.glob("*/*.jpg"))
    images = torch.from_numpy(np.stack([load(path, backbone.preprocessing) for path in paths]))
    labels = torch.arange(3).repeat_interleave(4)
    support = Support(images, labels, backbone.frozen_features(images), 3, ("cat", "house", "star"))
    support = with_texts(backbone, support, class_texts(support.classes))
    adapted = recipe.learner.adapt(backbone, support, Run(0))
    logits = Model(backbone, adapted).logits(images)
    written = read_delta_file(file)
    head = written.head
    factor = head.factor if isinstance(head, KeptHead) else float(head.weight.norm() / adapted.head.weight.norm())
    expected = (factor * logits).softmax(1).max(1)

    rows = predict(file, drawn, where=where)["predictions"]
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [row["label"] for row in rows] == [report["classes"][i] for i in expected.indices.tolist()]
    assert [row["probability"] for row in rows] == pytest.approx(expected.values.tolist(), abs=2e-4)
    assert (report["density"] > 0) == bool(adapted.delta)
    heads = ("coop", "clap")  # methods that move words or a probe, and no weight
    assert adapted.moves == (recipe.learner.head_only is None and name not in heads)
    assert report["max_abs_diff"] <= TOLERANCE * max(1.0, float(factor * logits.abs().max()))
    assert report["bytes"] == file.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "shira", "saft", "bitfit", "pmf", "lda"])
def test_a_convolutional_backbone_works_too(name, drawn, tmp_path, learn, weights, predict):
    changes = [QUICK] if trained(name) else []
    report = learn(drawn, tmp_path / "x.fewshot", name, *changes, backbone="test_efficientnet")
    assert report["backbone"] == "test_efficientnet"
    found = predict(tmp_path / "x.fewshot", drawn, where=Source(weights["test_efficientnet"], offline=True))
    assert all(row["label"] in report["classes"] for row in found["predictions"])


def test_the_report_says_what_was_done_and_is_left_beside_the_file(drawn, tmp_path, learn):
    report = learn(drawn, tmp_path / "x.fewshot", seed=7)
    assert json.loads((tmp_path / "x.fewshot.run.json").read_text()) == report
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["x.fewshot", "x.fewshot.run.json"]
    assert report["seed"] == 7
    assert report["images"] == 12 and report["per_class"] == {name: {"n": 4} for name in report["classes"]}
    assert report["classes"] == sorted(path.name for path in drawn.iterdir())
    assert report["skipped"] == []
    assert set(report["seconds"]) == {"read", "load", "adapt", "prove", "total"}
    assert sum(report["seconds"].values()) == pytest.approx(2 * report["seconds"]["total"], abs=0.01)
    assert report["recipe"]["method"]["name"] == report["method"] == "ridge"
    assert report["recipe"]["image_size"] == 64
    expected = report["expected_accuracy"]
    assert 0 <= expected["low"] <= expected["mean"] <= expected["high"] <= 1
    header = read_delta_file(tmp_path / "x.fewshot").header
    assert header.provenance.expected_accuracy.model_dump() == expected
    assert header.base.preprocessing.size == (64, 64)
    assert len(header.provenance.learned_from) == header.provenance.images == 12


@pytest.mark.slow
def test_the_packaged_backbone_tells_drawn_things_apart(drawn, unseen, tmp_path, learn, monkeypatch):
    """The packaged weights, at 64 pixels: the estimate and the truth are both far above chance."""
    from fewshot_cli.jobs.classify.evaluate import evaluate
    from fewshot_cli.jobs.progress import NoProgress

    file = tmp_path / "x.fewshot"
    what = load_recipe("ridge", image_size=64)
    context = JobContext(Source(offline=True), torch.device("cpu"), FeatureCache(), NoProgress())
    result = adapting.adapt(drawn, file, adapting.AdaptSettings(what, folds=0), context)
    found = evaluate(file, unseen, context)
    assert result.expected_accuracy.low > 1 / 3 and found.low > 1 / 3
    assert found.learned_from == 0


# --- repeating -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ridge", "logistic", "lora", "saft"])
def test_the_same_run_gives_the_same_bytes_whatever_the_cache_knows(name, drawn, tmp_path, learn):
    changes = [QUICK] if trained(name) else []
    cache = FeatureCache(tmp_path / "features.sqlite")
    for i, kept in enumerate([None, None, cache, cache]):  # without, again, cold, warm
        learn(drawn, tmp_path / f"{i}.fewshot", name, *changes, cache=kept, folds=2)
    first, *others = [(tmp_path / f"{i}.fewshot").read_bytes() for i in range(4)]
    assert all(other == first for other in others)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "size"), [("test_efficientnet", 64), (DEFAULT_BACKBONE, 64)])
def test_a_cache_that_knows_some_of_the_pictures_changes_no_byte(tmp_path, learn, backbone, size):
    """The last bits of a feature depend on how many pictures are embedded at once; with few it would not show."""
    write_folder(tmp_path / "all", ("cat", "house", "star"), 20, seed=0, size=64)
    for i, path in enumerate(sorted((tmp_path / "all").glob("*/*.jpg"))):
        if i % 4 == 0:
            (tmp_path / "some" / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "some" / path.parent.name)
    cache = FeatureCache(tmp_path / "features.sqlite")
    learn(tmp_path / "some", tmp_path / "some.fewshot", cache=cache, backbone=backbone, image_size=size)
    learn(tmp_path / "all", tmp_path / "warm.fewshot", cache=cache, backbone=backbone, image_size=size)
    learn(tmp_path / "all", tmp_path / "cold.fewshot", backbone=backbone, image_size=size)
    assert (tmp_path / "warm.fewshot").read_bytes() == (tmp_path / "cold.fewshot").read_bytes()


@pytest.mark.slow
def test_another_seed_gives_another_training(drawn, tmp_path, learn):
    for seed in (0, 1):
        learn(drawn, tmp_path / f"{seed}.fewshot", "lora", QUICK, seed=seed)
    one, other = (read_delta_file(tmp_path / f"{seed}.fewshot").head.weight for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_the_names_of_files_do_not_matter(drawn, photos, tmp_path, learn):
    for i, path in enumerate(sorted(photos.glob("*/*.jpg"), reverse=True)):
        path.rename(path.with_name(f"{i:03d}.jpg"))
    one, other = (learn(folder, tmp_path / f"{folder.name}.fewshot") for folder in (drawn, photos))
    assert one["data"] == other["data"]
    heads = [read_delta_file(tmp_path / f"{folder.name}.fewshot").head.weight for folder in (drawn, photos)]
    torch.testing.assert_close(*heads, rtol=1e-3, atol=1e-3)


def test_a_second_run_that_only_fits_a_head_does_no_forward_pass(drawn, tmp_path, learn, passes):
    cache = FeatureCache(tmp_path / "features.sqlite")
    learn(drawn, tmp_path / "a.fewshot", cache=cache, image_size=None)
    assert sum(passes) >= 12
    passes.clear()
    learn(drawn, tmp_path / "b.fewshot", "lda", cache=cache, image_size=None)
    assert passes == []


@pytest.mark.slow
def test_features_under_one_transform_are_not_used_under_another(drawn, tmp_path, learn, passes):
    cache = FeatureCache(tmp_path / "features.sqlite")
    learn(drawn, tmp_path / "a.fewshot", cache=cache, image_size=64)
    passes.clear()
    learn(drawn, tmp_path / "b.fewshot", cache=cache, image_size=96)
    assert sum(passes) >= 12
    learn(drawn, tmp_path / "c.fewshot", image_size=96)
    assert (tmp_path / "b.fewshot").read_bytes() == (tmp_path / "c.fewshot").read_bytes()


@pytest.mark.slow
def test_features_under_one_delta_are_not_used_under_another(drawn, tmp_path, learn, predict):
    cache = FeatureCache(tmp_path / "features.sqlite")
    for name, rate in (("a", 0.01), ("b", 0.02)):
        learn(drawn, tmp_path / f"{name}.fewshot", "finetune", QUICK, f"method.tuning.optim.lr={rate}")
    for name in ("a", "b"):
        warm = predict(tmp_path / f"{name}.fewshot", drawn, cache=cache)["predictions"]
        assert warm == predict(tmp_path / f"{name}.fewshot", drawn)["predictions"]


# --- bases -----------------------------------------------------------------------------------------------------------


def test_another_base_is_refused(drawn, tmp_path, learn, weights, predict):
    learn(drawn, tmp_path / "x.fewshot")
    changed = load_file(weights["test_vit"])
    changed["blocks.0.attn.qkv.weight"][3, 5] += 1e-3  # one value
    save_file(changed, tmp_path / "other.safetensors")
    with pytest.raises(FewshotError, match=r"not the ones .* was made for") as caught:
        predict(tmp_path / "x.fewshot", drawn, where=Source(tmp_path / "other.safetensors"))
    assert caught.value.exit_code == 2 and "--weights" in caught.value.hint


def test_weights_of_another_model_are_refused(drawn, tmp_path, learn, weights):
    with pytest.raises(FewshotError, match="not of test_vit"):
        learn(drawn, tmp_path / "x.fewshot", weights_file=weights["test_efficientnet"])


def test_the_transform_is_the_files_whatever_timm_says_today(drawn, tmp_path, learn, predict, source):
    from dataclasses import replace

    learn(drawn, tmp_path / "x.fewshot")
    file = read_delta_file(tmp_path / "x.fewshot")
    other = replace(file.header.base.preprocessing, mean=(0.1, 0.2, 0.3))
    base = file.header.base.model_copy(update={"preprocessing": other})
    write_delta_file(tmp_path / "y.fewshot", file.header.model_copy(update={"base": base}), file.delta, file.head)
    one, two = (predict(tmp_path / name, drawn)["predictions"] for name in ("x.fewshot", "y.fewshot"))
    assert [row["probability"] for row in one] != [row["probability"] for row in two]


# --- the proof -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_file_that_is_not_what_was_learned_is_never_left(drawn, tmp_path, learn, monkeypatch, before):
    output = tmp_path / "out" / "x.fewshot"
    if before:
        output.parent.mkdir()
        output.write_bytes(before)

    def perturbed(path: Path, header, delta, head: Head, *kept: str) -> int:
        weight = head.weight.clone()
        weight[0, 0] += 10
        return write_delta_file(path, header, delta, Head(weight, head.bias, head.unit_norm), *kept)

    monkeypatch.setattr(delta_file, "write_delta_file", perturbed)
    with pytest.raises(CheckFailed, match="does not give the answers") as caught:
        learn(drawn, output)
    assert caught.value.exit_code == 3
    assert [path.read_bytes() for path in output.parent.iterdir()] == ([before] if before else [])


@pytest.mark.slow
def test_a_changed_delta_fails_the_proof_too(drawn, tmp_path, learn, monkeypatch):
    def without_delta(path: Path, header, delta, head: Head, *kept: str) -> int:
        return write_delta_file(path, header.model_copy(update={"shapes": {}, "touched": {}}), {}, head, *kept)

    monkeypatch.setattr(delta_file, "write_delta_file", without_delta)
    with pytest.raises(CheckFailed):
        learn(drawn, tmp_path / "out" / "x.fewshot", "finetune", QUICK, "method.tuning.optim.lr=0.05")
    assert list((tmp_path / "out").iterdir()) == []


# --- fewer digits ----------------------------------------------------------------------------------------------------

TRAINED = ("finetune", QUICK, "method.tuning.optim.lr=0.01")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["finetune", "lora", "shira", "bitfit"])
@pytest.mark.parametrize("values", ["bfloat16", "float16", "int8"])
def test_a_file_of_fewer_digits_is_smaller_and_gives_the_rounded_models_answers(
    recipe, values, drawn, tmp_path, learn, predict, source
):
    from fewshot_cli.jobs.share.verify import verify

    exact = learn(drawn, tmp_path / "exact.fewshot", recipe, QUICK)
    report = learn(drawn, tmp_path / "x.fewshot", recipe, QUICK, values=values)
    assert report["bytes"] < exact["bytes"] * {"int8": 0.6}.get(values, 0.8)
    assert exact["values"]["stored"] == exact["values"]["head"] == "float32" and exact["values"]["top1_agreement"] == 1
    cost = report["values"]
    assert cost["stored"] == values and cost["top1_agreement"] == 1 and 0 < cost["max_abs_diff"] < 0.5
    one, other = (predict(tmp_path / name, drawn)["predictions"] for name in ("exact.fewshot", "x.fewshot"))
    assert [row["label"] for row in one] == [row["label"] for row in other]
    drift = max(abs(a["probability"] - b["probability"]) for a, b in zip(one, other, strict=True))
    assert 0 < drift < 0.02
    assert verify(tmp_path / "x.fewshot", source, torch.device("cpu")).checks["round trip"]


@pytest.mark.slow
def test_the_held_out_cost_of_rounding_is_told(drawn, tmp_path, learn):
    report = learn(drawn, tmp_path / "x.fewshot", *TRAINED, folds=2, values="int8")
    cost = report["values"]
    assert 0 <= cost["accuracy_before"] <= report["expected_accuracy"]["mean"] and 0 <= cost["accuracy"] <= 1
    assert learn(drawn, tmp_path / "y.fewshot", folds=2, values="int8")["values"]["accuracy"] is None


@pytest.mark.slow
def test_rounding_that_changes_answers_is_refused(drawn, tmp_path, learn):
    learn(drawn, tmp_path / "fine.fewshot", *TRAINED[:2], "method.tuning.optim.lr=0.05", values="float16")
    with pytest.raises(CheckFailed, match="other answers on") as caught:
        learn(drawn, tmp_path / "out" / "x.fewshot", *TRAINED[:2], "method.tuning.optim.lr=0.05", values="1bit")
    assert caught.value.exit_code == 3 and "--values int8" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["protonet", "ridge", "lda"])
def test_a_head_is_as_narrow_as_makes_no_difference(recipe, drawn, tmp_path, learn, predict):
    report = learn(drawn, tmp_path / "x.fewshot", recipe, values="float16")
    learn(drawn, tmp_path / "exact.fewshot", recipe)
    one, other = (predict(tmp_path / name, drawn)["predictions"] for name in ("exact.fewshot", "x.fewshot"))
    assert [row["label"] for row in one] == [row["label"] for row in other]
    drifts = [abs(a["probability"] - b["probability"]) for a, b in zip(one, other, strict=True)]
    assert max(drifts) <= 0.04 / 4 + 1e-3
    assert report["values"]["head"] != "float32"
    assert read_delta_file(tmp_path / "x.fewshot").stored.head == report["values"]["head"]


def test_positions_that_were_drawn_are_a_seed(drawn, tmp_path, learn):
    learn(drawn, tmp_path / "x.fewshot", "shira", QUICK, "method.mask=random", seed=5, values="float16")
    assert set(read_delta_file(tmp_path / "x.fewshot").stored.forms.values()) == {"drawn"}


@pytest.mark.slow
def test_a_base_that_is_another_where_the_file_changes_it_is_named(drawn, tmp_path, learn, weights, predict):
    learn(drawn, tmp_path / "x.fewshot", "bitfit", QUICK)
    name = next(iter(read_delta_file(tmp_path / "x.fewshot").header.touched))
    changed = load_file(weights["test_vit"])
    changed[name] += 1
    save_file(changed, tmp_path / "other.safetensors")
    with pytest.raises(FewshotError, match=f"and {name}, which it changes, is another"):
        predict(tmp_path / "x.fewshot", drawn, where=Source(tmp_path / "other.safetensors"))


# --- folders as people have them ------------------------------------------------------------------------------------


def reasons(report) -> dict[str, str]:
    return {Path(item["path"]).name: item["reason"] for item in report["skipped"]}


@pytest.mark.slow
def test_copies_inside_a_class_are_left_out_and_reported(drawn, photos, tmp_path, learn):
    first = sorted((photos / "cat").iterdir())[0]
    shutil.copy(first, photos / "cat" / "zz.jpg")
    report = learn(photos, tmp_path / "x.fewshot")
    assert reasons(report) == {"zz.jpg": f"a copy of {first}"}
    assert report["images"] == 12 and report["per_class"]["cat"]["n"] == 4
    learn(drawn, tmp_path / "y.fewshot")
    assert (tmp_path / "x.fewshot").read_bytes() == (tmp_path / "y.fewshot").read_bytes()


def test_the_same_picture_in_two_classes_is_an_error(photos, tmp_path, learn):
    twin = sorted((photos / "cat").iterdir())[0]
    shutil.copy(twin, photos / "star" / "zz.jpg")
    with pytest.raises(FewshotError, match="two classes") as caught:
        learn(photos, tmp_path / "x.fewshot")
    assert str(twin) in caught.value.problem and str(photos / "star" / "zz.jpg") in caught.value.problem
    assert not (tmp_path / "x.fewshot").exists()


@pytest.mark.slow
def test_files_that_are_no_pictures_are_skipped_and_reported(drawn, photos, tmp_path, learn):
    (photos / "cat" / "broken.jpg").write_bytes(sorted((photos / "cat").iterdir())[0].read_bytes()[:600])
    (photos / "cat" / "notes.txt").write_text("a cat")
    (photos / "star" / "empty.png").touch()
    (photos / "loose.jpg").write_bytes(sorted((photos / "cat").iterdir())[1].read_bytes())
    report = learn(photos, tmp_path / "x.fewshot")
    assert reasons(report).keys() == {"broken.jpg", "notes.txt", "empty.png", "loose.jpg"}
    assert all(reasons(report).values())
    assert report["images"] == 12
    learn(drawn, tmp_path / "y.fewshot")
    assert (tmp_path / "x.fewshot").read_bytes() == (tmp_path / "y.fewshot").read_bytes()


def test_a_class_without_a_readable_picture_is_an_error_that_names_it(photos, tmp_path, learn):
    shutil.rmtree(photos / "cat")
    (photos / "cat").mkdir()
    (photos / "cat" / "only.jpg").write_bytes(b"\xff\xd8\xff nothing")
    with pytest.raises(FewshotError, match="'cat' can be read") as caught:
        learn(photos, tmp_path / "x.fewshot")
    assert "only.jpg" in caught.value.problem
    assert str(photos / "cat") in caught.value.hint


def test_one_image_per_class_says_that_the_accuracy_cannot_be_known(drawn, tmp_path, learn):
    for label in ("cat", "star"):
        (tmp_path / "one" / label).mkdir(parents=True)
        shutil.copy(sorted((drawn / label).iterdir())[0], tmp_path / "one" / label)
    for name, changes in (("ridge", ()), ("lora", (QUICK,))):
        expected = learn(tmp_path / "one", tmp_path / f"{name}.fewshot", name, *changes, folds=5)["expected_accuracy"]
        assert (expected["mean"], expected["low"], expected["high"]) == (None, None, None)
        assert "one image per class" in expected["how"]


@pytest.mark.slow
def test_no_folds_no_estimate_of_a_trained_method(drawn, tmp_path, learn):
    assert learn(drawn, tmp_path / "x.fewshot", "lora", QUICK, folds=0)["expected_accuracy"]["mean"] is None
    found = learn(drawn, tmp_path / "y.fewshot", "lora", QUICK, folds=3)["expected_accuracy"]
    assert found["mean"] is not None and found["how"] == "3-fold, 12 images"


def test_grey_and_transparent_pictures_of_any_shape_count(photos, tmp_path, learn):
    Image.new("L", (33, 90), 128).save(photos / "cat" / "grey.png")
    Image.new("RGBA", (200, 17), (255, 0, 0, 100)).save(photos / "star" / "alpha.png")
    report = learn(photos, tmp_path / "x.fewshot")
    assert report["images"] == 14 and report["skipped"] == []


def test_a_folder_name_that_is_no_utf8_is_an_error(photos, tmp_path, learn):
    try:
        (photos / "cat").rename(photos / "caf\udce9")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    with pytest.raises(FewshotError, match="UTF-8"):
        learn(photos, tmp_path / "x.fewshot")


def test_a_file_name_that_is_no_utf8_is_no_problem(photos, tmp_path, learn, predict):
    try:
        sorted((photos / "cat").iterdir())[0].rename(photos / "cat" / "caf\udce9.jpg")
        (photos / "cat" / "br\udce9.jpg").write_bytes(b"nothing")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    report = learn(photos, tmp_path / "x.fewshot")
    assert json.loads((tmp_path / "x.fewshot.run.json").read_text()) == report
    assert len(report["skipped"]) == 1
    assert len(predict(tmp_path / "x.fewshot", photos / "cat")["predictions"]) == 5


def test_nothing_is_done_for_an_output_that_cannot_be(drawn, tmp_path, learn, passes):
    with pytest.raises(FewshotError, match="is a folder"):
        learn(drawn, tmp_path)
    assert passes == []


def test_the_backbone_is_loaded_from_where_the_source_says(weights):
    backbone = load_backbone("test_vit", Source(weights["test_vit"]), None, torch.device("cpu"))
    kept = load_file(weights["test_vit"])
    assert all(torch.equal(values, kept[name]) for name, values in backbone.params.items())


@pytest.fixture
def three(weights, tmp_path) -> dict[str, Path]:
    """The tiny model's weights as they are, without the classifier, and with another one."""
    whole = load_file(weights["test_vit"])
    head = {name: values + 1 for name, values in whole.items() if name.startswith("head.")}
    assert head
    save_file({name: values for name, values in whole.items() if name not in head}, tmp_path / "body.safetensors")
    save_file(whole | head, tmp_path / "other.safetensors")
    return {
        "whole": weights["test_vit"],
        "body": tmp_path / "body.safetensors",
        "other": tmp_path / "other.safetensors",
    }


@pytest.mark.slow
def test_the_classifier_of_the_weights_does_not_matter(three, drawn, tmp_path, learn, predict):
    answers = []
    for made, path in three.items():
        file = tmp_path / f"{made}.fewshot"
        learn(drawn, file, weights_file=path)
        assert (read_delta_file(file).header.base.body is None) == (made == "body")
        answers += [predict(file, drawn, where=Source(used, offline=True))["predictions"] for used in three.values()]
    labels = [[(row["label"], row["probability"]) for row in rows] for rows in answers]
    assert len(labels) == 9 and all(found == labels[0] for found in labels)
    assert read_on_one_base([tmp_path / f"{made}.fewshot" for made in three])


@pytest.mark.slow
def test_files_of_before_name_the_weights_as_they_were(three, drawn, tmp_path, learn, predict):
    """They say nothing of the body: they know their very weights, and those made without a classifier the body."""
    for made, refused in (("whole", {"body", "other"}), ("body", set())):
        file = tmp_path / f"{made}.fewshot"
        learn(drawn, file, weights_file=three[made])
        found = read_delta_file(file)
        base = found.header.base.model_copy(update={"body": None})
        header = found.header.model_copy(update={"base": base})
        write_delta_file(file, header, found.delta, found.head, "float32")
        for name, path in three.items():
            if name in refused:
                with pytest.raises(FewshotError, match="not the ones"):
                    predict(file, drawn, where=Source(path, offline=True))
            else:
                assert predict(file, drawn, where=Source(path, offline=True))["predictions"]
