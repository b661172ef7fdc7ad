"""The Python interface: what the commands do, on paths, pictures and arrays alike, and nothing else happens."""

import os
import pickle
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fewshot_cli as fewshot
from fewshot_cli.images.drawing import draw, write_folder
from fewshot_cli.jobs.run_record import run_path

QUICK = {"method.tuning.optim.steps": 2}


def labels_and(probabilities):
    return [(row.label, row.probability) for row in probabilities]


def test_importing_it_imports_nothing_heavy():
    heavy = ("torch", "numpy", "pydantic", "rich", "PIL", "typer")
    code = f"import sys, fewshot_cli; dir(fewshot_cli); print(sorted(set({heavy}) & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout == "[]\n"


def test_what_is_offered_is_there_and_nothing_else():
    for name in fewshot.__all__:
        assert getattr(fewshot, name)
    assert set(fewshot.__all__) <= set(dir(fewshot))
    with pytest.raises(AttributeError, match="no attribute 'adopt'"):
        _ = fewshot.adopt


@pytest.mark.slow
def test_paths_pictures_and_arrays_give_the_same_classifier(folder, pictures, arrays, adapt, tmp_path):
    pairs = ([p for some in pictures.values() for p in some], [label for label, some in pictures.items() for _ in some])
    forms = {
        "folder": folder,
        "text": str(folder),
        "pictures": pictures,
        "paths": {label: sorted((folder / label).iterdir()) for label in pictures},
        "folders": {label: folder / label for label in pictures},
        "arrays": arrays,
        "pairs": pairs,
    }
    answers = {}
    for name, images in forms.items():
        classifier = adapt(images)
        assert classifier.classes == ("cat", "house", "star") and classifier.result.images == 12
        answers[name] = labels_and(classifier.predict([draw("star", 9, 64), draw("cat", 9, 64)]))
    wanted = answers["folder"]
    for found in answers.values():
        assert [label for label, _ in found] == [label for label, _ in wanted]
        assert [share for _, share in found] == pytest.approx([share for _, share in wanted], abs=1e-4)


def test_one_picture_is_asked_about_in_every_form(folder, pictures, arrays, adapt):
    classifier = adapt(pictures)
    path = folder / "cat" / "0.png"
    with Image.open(path) as opened:
        forms = [path, str(path), pictures["cat"][0], arrays["cat"][0], [path], arrays["cat"][:1], opened]
        answers = [labels_and(classifier.predict(form)) for form in forms]
    assert all(len(found) == 1 and found == answers[0] for found in answers)
    whole = classifier.predict(folder)
    assert len(whole) == 12 and [row.path for row in whole] == [str(p) for p in sorted(folder.glob("*/*.png"))]
    assert whole[0] == whole.predictions[0] and whole.file == "a classifier in memory"
    probabilities = classifier.predict_proba(arrays["cat"])
    assert probabilities.shape == (4, 3) and probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert [classifier.classes[i] for i in probabilities.argmax(1)] == [
        r.label for r in classifier.predict(arrays["cat"])
    ]


def test_grey_and_transparent_arrays_count(pictures, adapt):
    classifier = adapt(pictures)
    grey = np.asarray(pictures["cat"][0].convert("L"))
    alpha = np.asarray(pictures["cat"][0].convert("RGBA"))
    alike = [labels_and(classifier.predict(form)) for form in (grey, grey[..., None], pictures["cat"][0].convert("L"))]
    assert alike[0] == alike[1] == alike[2]
    assert labels_and(classifier.predict(alpha)) == labels_and(classifier.predict(pictures["cat"][0]))


def test_an_unreadable_file_is_a_row_with_its_error(pictures, adapt, tmp_path):
    (tmp_path / "no.jpg").write_bytes(b"nothing")
    classifier = adapt(pictures)
    bad, good = classifier.predict([tmp_path / "no.jpg", pictures["cat"][0]])
    assert bad.label is None and bad.error and good.error is None and good.path == "image 1"
    probabilities = classifier.predict_proba([tmp_path / "no.jpg", pictures["cat"][0]])
    assert np.isnan(probabilities[0]).all() and not np.isnan(probabilities[1]).any()


@pytest.mark.slow
def test_what_is_saved_is_what_the_command_reads(folder, pictures, adapt, weights, tmp_path):
    classifier = adapt(folder, "bitfit", set=QUICK, folds=0, seed=3)
    assert classifier.result.file is None and classifier.file is None
    assert classifier.save(tmp_path / "deep" / "x.fewshot") == tmp_path / "deep" / "x.fewshot"
    record = run_path(tmp_path / "deep" / "x.fewshot").read_text()
    assert '"command": "adapt"' in record and str(tmp_path / "deep" / "x.fewshot") in record
    again = fewshot.load(tmp_path / "deep" / "x.fewshot", weights=weights, offline=True)
    asked = pictures["star"]
    assert labels_and(again.predict(asked)) == labels_and(classifier.predict(asked))
    assert again.expected_accuracy == classifier.expected_accuracy == classifier.result.expected_accuracy
    found = fewshot.predict(tmp_path / "deep" / "x.fewshot", asked, weights=weights, offline=True)
    assert labels_and(found) == labels_and(classifier.predict(asked))
    made = subprocess.run(
        [
            *(sys.executable, "-m", "fewshot_cli", "adapt", folder, "-o", tmp_path / "y.fewshot"),
            *("--recipe", "bitfit", "--set", "method.tuning.optim.steps=2", "--folds", "0", "--seed", "3"),
            *("--backbone", "test_vit", "--image-size", "64", "--weights", weights, "--offline"),
        ],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "y.fewshot").read_bytes() == (tmp_path / "deep" / "x.fewshot").read_bytes()


def test_a_copy_answers_alike(pictures, adapt):
    classifier = adapt(pictures)
    again = pickle.loads(pickle.dumps(classifier))
    assert again.result == classifier.result and again.content == classifier.content
    assert labels_and(again.predict(pictures["cat"])) == labels_and(classifier.predict(pictures["cat"]))


def test_it_is_measured_on_labelled_images_in_every_form(folder, pictures, arrays, adapt):
    classifier = adapt(pictures)
    results = [classifier.evaluate(form) for form in (folder, pictures, arrays)]
    assert len({result.accuracy for result in results}) == 1 and results[0].n == 12
    assert results[0].learned_from == 0 and results[1].learned_from == 12  # by content: of a file's bytes, or of pixels
    assert fewshot.evaluate(classifier, folder).confusion == results[0].confusion
    with pytest.raises(fewshot.FewshotError, match="was not taught: 'boat'"):
        classifier.evaluate({"cat": pictures["cat"], "boat": [draw("boat", 0, 64)]})


@pytest.mark.slow
def test_export_writes_the_same_as_the_command_and_says_so(pictures, adapt, tmp_path):
    classifier = adapt(pictures)
    result = fewshot.export(classifier, tmp_path / "x.safetensors", "safetensors")
    assert result.max_abs_diff < 1e-3 and result.top1_agreement == 1 and (tmp_path / "x.safetensors").is_file()
    assert result.source == "a classifier in memory"
    file = classifier.save(tmp_path / "x.fewshot")
    with pytest.raises(fewshot.FewshotError, match="is the delta file itself"):
        fewshot.export(file, file, "safetensors", weights=classifier.context.source.weights, offline=True)


@pytest.mark.slow
def test_recipes_are_compared_on_the_same_episodes(tmp_path, weights):
    write_folder(tmp_path / "sets" / "day", ("cat", "fish", "house", "star"), 6, seed=0, size=64)
    asked = {"episodes": 50, "way": 3, "shots": 2, "queries": 3, "backbone": "test_vit", "image_size": 64}
    before = sorted(tmp_path.rglob("*.json"))
    result = fewshot.compare(["protonet", "ridge"], tmp_path / "sets", weights=weights, offline=True, **asked)
    assert list(result.methods) == ["protonet", "ridge"] and result.methods["ridge"].datasets["day"].n == 50
    assert result.pairs[0].dataset is None and sorted(tmp_path.rglob("*.json")) == before
    kept = fewshot.compare(
        "ridge", tmp_path / "sets", weights=weights, offline=True, output=tmp_path / "run.json", **asked
    )
    assert kept.methods["ridge"].accuracy == result.methods["ridge"].accuracy and (tmp_path / "run.json").is_file()
    with pytest.raises(fewshot.FewshotError, match="way"):
        fewshot.compare("ridge", tmp_path / "sets", set={"protocol.way": 1})


@pytest.mark.slow
def test_a_bank_is_meta_tuned_and_adapted_from(tmp_path, weights, folder, adapt):
    write_folder(tmp_path / "day", ("cat", "fish", "house", "star"), 8, seed=0, size=64)
    settings = {
        "training": {"protocol": {"name": "fixed", "way": 3, "shots": 2, "queries": 3}, "episodes": 2, "epochs": 1},
        "training.validation.episodes": 0,
    }
    result = fewshot.meta_tune(
        "dense", tmp_path / "day", tmp_path / "x.bank", set=settings, backbone="test_vit", image_size=64,
        weights=weights, offline=True,
    )  # fmt: skip
    assert result.file == str(tmp_path / "x.bank") and result.epochs[0].tasks >= 1
    assert adapt(folder, "protonet", bank=tmp_path / "x.bank").result.bank.digest


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ({"cat": [np.zeros((8, 8, 3), np.uint8)]}, "a single class, 'cat'"),
        ({}, "no class"),
        ({"cat": [], "dog": [np.zeros((8, 8, 3), np.uint8)]}, "'cat' has no picture"),
        ({"cat": [np.zeros((8, 8, 3))], "dog": []}, "float64"),
        ({"cat": [np.zeros((8, 8, 5), np.uint8)], "dog": []}, "which no picture has"),
        ({"cat": [3], "dog": []}, "'cat 0' is a int"),
        ({"cat": 3, "dog": []}, "int is no picture"),
        (([np.zeros((8, 8, 3), np.uint8)], ["cat", "dog"]), "1 pictures and 2 labels"),
        (7, "no labelled set"),
        ("nowhere", "no folder nowhere"),
    ],
)
def test_what_is_no_labelled_set_is_an_error_that_says_why(images, problem, adapt):
    with pytest.raises(fewshot.FewshotError, match=problem) as caught:
        adapt(images)
    assert caught.value.hint


def test_wrong_settings_are_told_as_the_command_tells_them(pictures, adapt):
    with pytest.raises(fewshot.FewshotError, match="there is no such setting"):
        adapt(pictures, set={"method.strenght": 1})
    with pytest.raises(fewshot.FewshotError, match="the estimate of ridge is exact"):
        adapt(pictures, folds=3)
    with pytest.raises(fewshot.FewshotError, match="which no recipe can hold"):
        adapt(pictures, set={"method.strength": object()})
    with pytest.raises(fewshot.FewshotError, match="no device called 'gpu'"):
        adapt(pictures, device="gpu")
    with pytest.raises(fewshot.FewshotError, match="this classifier is loaded"):
        fewshot.predict(adapt(pictures), pictures["cat"], device="cpu")


def test_the_same_picture_in_two_classes_is_an_error(pictures, adapt):
    with pytest.raises(fewshot.FewshotError, match=r"two classes: cat 0 and star 0"):
        adapt({"cat": pictures["cat"][:1], "star": pictures["cat"][:1]})


@pytest.mark.parametrize("from_bank", [False, True])
def test_names_are_no_knowledge_on_a_backbone_that_reads_no_texts(from_bank, folder, random_bank, vit, tmp_path):
    """That is said before weights are looked for, which are not there."""
    bank = {"bank": random_bank(tmp_path / "my.bank", vit, "dense")} if from_bank else {"backbone": "test_vit"}
    how = bank | {"weights": tmp_path / "nothing", "offline": True}
    says = "gda takes the names of the classes for knowledge, and test_vit reads no texts"
    with pytest.raises(fewshot.FewshotError, match=says):
        fewshot.compare("gda", "drawn", **how)
    with pytest.raises(fewshot.FewshotError, match=says):
        fewshot.adapt(folder, recipe="gda", **how)
    if not from_bank:
        with pytest.raises(fewshot.FewshotError, match="ridge can't answer classes of which it has only the names"):
            fewshot.compare("ridge", "drawn", protocol="base-to-new", shots=1, **how)


# --- nothing else happens --------------------------------------------------------------------------------------------


def state() -> dict[str, object]:
    """What a program shares with what it calls."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "python": random.getstate(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "default type": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "umask": umask,
        "modules' paths": list(sys.path),
        "standard output": sys.stdout,
    }


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ridge", "bitfit", "lora", "moa", "tim"])
def test_nothing_is_printed_and_no_global_state_changes(recipe, folder, pictures, adapt, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changes = {"method.tuning.optim.steps": 2} if recipe in ("bitfit", "lora", "moa") else {}
    before = state()
    classifier = adapt(folder, recipe, set=changes)
    classifier.predict(pictures["cat"])
    classifier.evaluate(pictures)
    file = classifier.save(tmp_path / "x.fewshot")
    fewshot.load(file, weights=classifier.context.source.weights, offline=True)
    if recipe == "ridge":
        classifier.export(tmp_path / "x.safetensors", "safetensors")
    after = state()
    assert [name for name in before if before[name] != after[name]] == []
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(tmp_path / "cache")
    assert {path.name for path in tmp_path.iterdir()} <= {
        *("x.fewshot", "x.fewshot.run.json", "x.safetensors", "x.safetensors.run.json"),
    }


def test_without_a_cache_nothing_is_remembered(pictures, adapt, tmp_path):
    adapt(pictures, no_cache=True).predict(pictures["cat"])
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_classifier_is_changed_without_a_word(pictures, adapt, folder, tmp_path, weights, capfd):
    file, output = tmp_path / "x.fewshot", tmp_path / "y.fewshot"
    adapt({label: pictures[label] for label in ("cat", "house")}, keep_support=True).save(file)
    how = {"weights": weights, "offline": True}
    assert fewshot.add_class(file, folder / "star", output, **how).added == {"star": 4}
    assert fewshot.load(output, **how).classes == ("cat", "house", "star") != fewshot.load(file, **how).classes
    with pytest.raises(fewshot.FewshotError, match="No picture"):
        fewshot.next(output, folder / "star", **how)
    assert fewshot.rename_class(output, "star", "sun", output).in_place
    assert fewshot.remove_class(output, "sun", output).classes == ("cat", "house")
    with pytest.raises(fewshot.FewshotError, match="0 pictures"):
        fewshot.next(file, folder, count=0, **how)
    assert capfd.readouterr() == ("", "")
