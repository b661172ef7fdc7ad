import shutil

import pytest
import torch

from fewshot_cli.jobs.share import describe as inspecting


def refused(result, *words: str) -> str:
    """The message of a command that ended as wrong use does: exit 2, one problem, one hint, no traceback."""
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ") and "Traceback" not in result.stderr
    problem, *hint = result.stderr.strip().split("\n")
    assert problem.endswith((".", ":"))
    assert hint and hint[-1].strip()
    for word in words:
        assert word in result.stderr
    return result.stderr


@pytest.fixture
def adapt(fewshot, drawn, tiny, tmp_path):
    def adapt(*options: object, folder=drawn, output=tmp_path / "x.fewshot", base=tuple(tiny)):
        return fewshot("adapt", folder, "-o", output, *base, *options)

    return adapt


def test_folders_that_cannot_be(adapt, drawn, tmp_path):
    picture = sorted((drawn / "cat").iterdir())[0]
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "cat").mkdir(parents=True)
    shutil.copy(picture, tmp_path / "one" / "cat")
    refused(adapt(folder=tmp_path / "nowhere"), "nowhere")
    refused(adapt(folder=picture), "is no data set", "a .zip of class folders")
    refused(adapt(folder=drawn / "cat"), "no sub-folders", "sub-folder per class")
    refused(adapt(folder=tmp_path / "empty"), "no sub-folders")
    refused(adapt(folder=tmp_path / "one"), "single class")


def test_outputs_that_cannot_be(adapt, drawn, tmp_path):
    refused(adapt(output=tmp_path), "is a folder", "-o")
    refused(adapt(output=sorted((drawn / "cat").iterdir())[0] / "x.fewshot"), "can't be written")
    refused(adapt(output=tmp_path / ("x" * 300)), "too long")


def test_names_that_do_not_exist(adapt, fewshot, weights, tmp_path):
    refused(adapt("--recipe", "loar"), "loar", "lora")
    refused(adapt("--recipe", tmp_path / "none.yaml"), "none.yaml", "fewshot recipes")
    refused(adapt("--device", "tpu"), "tpu", "--device")
    refused(adapt(base=("--backbone", "resnet51")), "resnet51", "Did you mean")
    refused(adapt(base=("--backbone", "test_vit", "--weights", tmp_path / "none")), "no weights file")
    refused(fewshot("recipes", "show", "loar"), "loar")
    refused(fewshot("recipes", "check", "lora", "--set", "method.rank=-1"), "method.rank")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(adapt):
    refused(adapt("--device", "cuda"), "cuda", "--device cpu")


def test_all_mistakes_of_a_recipe_are_told_at_once(adapt):
    message = refused(
        adapt("--recipe", "lora", "--set", "method.rank=0", "--set", "method.rnak=3", "--set", "method.tuning.scale=x"),
        "3 mistakes",
        "method.rank:",
        "method.rnak:",
        "method.tuning.scale:",
    )
    assert "--set" in message


def test_changes_that_say_nothing(adapt):
    refused(adapt("--set", "method.rank"), "key.path=value", "--set method.")
    refused(adapt("--set", "=3"), "key.path=value")
    refused(adapt("--recipe", "bitfit", "--set", "method.name.x=3"), "a value, not a section")


def test_folds_that_would_do_nothing(adapt):
    refused(adapt("--recipe", "bitfit", "--folds", 1), "--folds 1", "2 or more")
    refused(adapt("--recipe", "ridge", "--folds", 3), "--folds", "ridge is exact")
    refused(adapt("--recipe", "ridge", "--folds", 0), "--folds", "ridge is exact")


def test_two_recipes_at_once(adapt):
    refused(adapt("--recipe", "lora", "--method", "ridge"), "--recipe lora", "--method ridge")


def test_weights_that_could_run_code(adapt, tmp_path):
    torch.save({"x": torch.ones(1)}, tmp_path / "w.pth")
    refused(adapt(base=("--backbone", "test_vit", "--weights", tmp_path / "w.pth")), "w.pth", "run code")


def test_offline_without_the_weights(adapt, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    refused(adapt("--offline", base=("--backbone", "vit_small_patch16_224")), "--offline", "--weights")


def test_files_that_are_no_delta_files(fewshot, drawn, tmp_path, weights):
    picture = sorted((drawn / "cat").iterdir())[0]
    for arguments in (["inspect"], ["predict"], ["eval"], ["export"]):
        rest = {"predict": [drawn], "eval": [drawn], "export": ["-o", tmp_path / "x", "--format", "onnx"]}
        rest = rest.get(arguments[0], [])
        refused(fewshot(*arguments, picture, *rest), "not a delta file")
        refused(fewshot(*arguments, tmp_path / "none", *rest), "no delta file")
    refused(fewshot("verify", tmp_path / "none"), "no delta file")


@pytest.mark.slow
def test_what_cannot_be_composed_or_asked_together(fewshot, file, other, drawn, tmp_path, adapt):
    output = tmp_path / "all.fewshot"
    assert adapt(output=tmp_path / "small.fewshot", base=("--image-size", "32", "--recipe", "ridge")).exit_code == 0
    refused(fewshot("compose", file, tmp_path / "small.fewshot", "-o", output), "different bases", "small.fewshot")
    refused(fewshot("compose", file, "-o", output), "nothing to compose")
    refused(fewshot("compose", file, other, "-o", output, "--density", "0.5"), "--density", "add keeps all")
    refused(fewshot("compose", file, other, "-o", output, "--rule", "ties", "--density", "2"), "density")
    refused(fewshot("predict", file, tmp_path / "small.fewshot", drawn), "different bases")
    refused(fewshot("predict", file, other), "No image")
    assert not output.exists()


def test_a_damaged_file_fails_verification_with_three(fewshot, file, tmp_path, weights):
    assert fewshot("verify", file, "--weights", weights).exit_code == 0
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    (tmp_path / "x.fewshot").write_bytes(content)
    result = fewshot("verify", tmp_path / "x.fewshot", "--weights", weights)
    assert result.exit_code == 3 and result.stderr.startswith("Error: ") and result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["adapt"], "FOLDER"),
        (["adapt", "somewhere"], "output"),
        (["predict", "x.fewshot"], "PATH"),
        (["compose", "x.fewshot", "y.fewshot"], "output"),
        (["compose", "x.fewshot", "y.fewshot", "-o", "z", "--rule", "mean"], "mean"),
        (["eval", "x.fewshot"], "FOLDER"),
        (["export", "x.fewshot", "-o", "y"], "format"),
        (["export", "x.fewshot", "-o", "y", "--format", "gif"], "gif"),
        (["adapt", "f", "-o", "x", "--image-size", "large"], "--image-size"),
        (["adapt", "f", "-o", "x", "--seed", "-1"], "seed"),
        (["adapt", "f", "-o", "x", "--learning-rate", "1"], "--learning-rate"),
        (["adpat"], "adpat"),
    ],
)
def test_wrong_use_is_told_by_name(fewshot, arguments, word):
    result = fewshot(*arguments)
    assert result.exit_code == 2 and word in result.stderr and "--help" in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""


@pytest.mark.parametrize("size", ["15", "5000", "0", "-3", "50"])
def test_sizes_that_the_model_cannot_take(adapt, weights, size):
    refused(adapt(base=("--backbone", "test_vit", "--weights", weights, "--image-size", size)), "image")


def test_a_bug_is_a_traceback_and_one(fewshot, file, monkeypatch):
    def broken(path):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(inspecting, "read_any_delta_file", broken)
    result = fewshot("inspect", file)
    assert result.exit_code == 1 and isinstance(result.exception, ZeroDivisionError)
    assert "Error:" not in result.stderr


def test_an_interrupt_is_130(fewshot, file, monkeypatch):
    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspecting, "read_any_delta_file", interrupted)
    result = fewshot("inspect", file)
    assert result.exit_code == 130 and result.stdout == "" and "Interrupted" in result.stderr
