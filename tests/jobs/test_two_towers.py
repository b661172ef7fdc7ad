"""Two-tower backbones in every job: learned, predicted, proved, composed, exported, without a text being read."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.interop.export import export
from fewshot_cli.jobs.models.backbones import Source, load_backbone, parameter_shapes_of, shapes_of
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.compose import ComposeSettings, compose
from fewshot_cli.jobs.share.verify import verify
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")
ONE_STEP = ("steps=1", "epochs=0", "steps_per_shot=0")


@pytest.fixture
def learn_clip(learn, towers_file):
    def learned(folder, output, recipe="ridge", *changes, weights=towers_file, **more):
        return learn(
            folder, output, recipe, *changes, backbone="clip:tiny", weights_file=weights, image_size=None, **more
        )

    return learned


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ridge", "bitfit", "lora", "saft", "moa"])
def test_a_classifier_on_two_towers_answers_as_it_was_learned(
    recipe, learn_clip, drawn, unseen, tmp_path, towers_file, predict
):
    steps = [] if recipe == "ridge" else ["method.tuning.optim.steps=2"]
    report = learn_clip(drawn, tmp_path / "a.fewshot", recipe, *steps)
    assert report["backbone"] == "clip:tiny"
    assert report["max_abs_diff"] < 1e-4
    where = Source(towers_file, offline=True)
    answered = predict(tmp_path / "a.fewshot", unseen, where=where)
    assert len(answered["predictions"]) == 15
    if recipe != "moa":  # a graft is no change of weights
        changed = read_delta_file(tmp_path / "a.fewshot").delta
        assert all(name.startswith("visual.") for name in changed)
        assert bool(changed) == (recipe != "ridge")


WITHOUT_OPEN_CLIP = """
import json, sys
sys.modules["open_clip"] = None  # importing it fails
from fewshot_cli.cli.main import main
commands, failed = json.loads(sys.argv[1]), []
for command in commands:
    sys.argv = ["fewshot", *command, "--json"]
    try:
        main()
    except SystemExit as end:
        failed += [command] * bool(end.code)
sys.exit(f"failed: {failed}" if failed else 0)
"""


@pytest.mark.slow
def test_what_a_file_says_of_its_towers_is_enough_for_every_command_that_reads_no_text(
    learn_clip, drawn, unseen, tmp_path, towers_file
):
    """Not even open_clip is needed, and no words beside the weights."""
    learn_clip(drawn, tmp_path / "a.fewshot", "clip-lora", *(f"method.tuning.optim.{each}" for each in ONE_STEP))
    learn_clip(unseen, tmp_path / "b.fewshot", "cosine-ridge", keep_support=True)
    assert any(name.startswith("text.") for name in read_delta_file(tmp_path / "a.fewshot").delta)
    shutil.copy(towers_file, tmp_path / "alone.safetensors")
    a, b, out, pictures = *(str(tmp_path / f"{name}.fewshot") for name in "abc"), str(unseen)
    weights = ["--weights", str(tmp_path / "alone.safetensors")]
    commands = [
        ["predict", a, pictures, *weights],
        ["eval", a, pictures, *weights],
        ["export", a, "-o", str(tmp_path / "a.onnx"), "--format", "onnx", *weights],
        ["export", a, "-o", str(tmp_path / "a.safetensors"), "--format", "safetensors", *weights],
        ["compose", a, b, "-o", out],
        ["inspect", out],
        ["inspect", a, "--card", str(tmp_path / "card.md")],
        ["verify", a, *weights],
        ["remove-class", b, "cat", "-o", str(tmp_path / "d.fewshot")],
        ["rename-class", b, "cat", "dog", "-o", str(tmp_path / "e.fewshot")],
    ]
    code = [sys.executable, "-c", WITHOUT_OPEN_CLIP, json.dumps(commands)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_weights_of_another_activation_are_another_base(learn_clip, drawn, tmp_path, write_towers, towers_file):
    config = json.loads((towers_file.parent / "open_clip_config.json").read_text())["model_cfg"]
    quick = write_towers(tmp_path / "quick", {**config, "quick_gelu": True})
    assert load_file(quick).keys() == load_file(towers_file).keys()
    for name, weights in (("a", towers_file), ("b", quick)):
        learn_clip(drawn, tmp_path / f"{name}.fewshot", weights=weights)
    with pytest.raises(FewshotError, match="on different bases"):
        compose(
            [tmp_path / "a.fewshot", tmp_path / "b.fewshot"], tmp_path / "c.fewshot", ComposeSettings(), NoProgress()
        )


def test_the_folder_decides_about_the_preprocessing(towers_file):
    backbone = load_backbone("clip:tiny", Source(towers_file, offline=True), None, CPU)
    assert backbone.preprocessing.mean == (0.5, 0.5, 0.5)
    assert backbone.licence == "unknown"


def test_a_bare_file_without_words_is_not_guessed_about(towers_file, tmp_path):
    shutil.copy(towers_file, tmp_path / "bare.safetensors")
    with pytest.raises(FewshotError, match="does not say which weights"):
        load_backbone("clip:ViT-B-16", Source(tmp_path / "bare.safetensors", offline=True), None, CPU)
    with pytest.raises(FewshotError, match=r"not of clip:ViT-B-16/openai"):
        load_backbone("clip:ViT-B-16/openai", Source(tmp_path / "bare.safetensors", offline=True), None, CPU)


def test_weights_that_are_not_here_are_asked_for_by_their_repository():
    with pytest.raises(FewshotError, match=r"timm/vit_base_patch16_clip_224.openai are not on this machine"):
        load_backbone("clip:ViT-B-16/openai", Source(offline=True), None, CPU)


@pytest.mark.slow
def test_verify_and_compose_take_classifiers_on_two_towers(learn_clip, drawn, unseen, tmp_path, towers_file):
    learn_clip(drawn, tmp_path / "a.fewshot", "bitfit", "method.tuning.optim.steps=2")
    learn_clip(unseen, tmp_path / "b.fewshot", "bitfit", "method.tuning.optim.steps=3")
    where = Source(towers_file, offline=True)
    assert verify(tmp_path / "a.fewshot", where, CPU)
    compose([tmp_path / "a.fewshot", tmp_path / "b.fewshot"], tmp_path / "c.fewshot", ComposeSettings(), NoProgress())
    assert load_model(tmp_path / "c.fewshot", where, CPU).classes == ("cat", "house", "star")


@pytest.mark.slow
def test_the_shapes_of_the_base_follow_from_the_file(learn_clip, drawn, tmp_path, towers_file):
    learn_clip(drawn, tmp_path / "a.fewshot")
    loaded = load_model(tmp_path / "a.fewshot", Source(towers_file, offline=True), CPU)
    assert parameter_shapes_of(loaded.file.header.base) == shapes_of(loaded.backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [("bitfit", "method.tuning.optim.steps=2"), ("coprompt", "method.epochs=2")], ids=["delta", "prompts"]
)
def test_onnx_has_the_image_tower_with_the_class_vectors(recipe, learn_clip, drawn, tmp_path, towers_file):
    learn_clip(drawn, tmp_path / "a.fewshot", *recipe)
    where = Source(towers_file, offline=True)
    report = export(
        tmp_path / "a.fewshot", tmp_path / "a.onnx", "onnx", drawn, JobContext(where, CPU, NoCache(), NoProgress())
    ).report()
    assert report["max_abs_diff"] < 1e-3
    assert report["bytes"] < towers_file.stat().st_size / 4  # the text tower stays out


@pytest.mark.slow
def test_safetensors_are_plain_timms(learn_clip, drawn, tmp_path, towers_file):
    learn_clip(drawn, tmp_path / "a.fewshot", "bitfit", "method.tuning.optim.steps=2")
    where = Source(towers_file, offline=True)
    report = export(
        tmp_path / "a.fewshot",
        tmp_path / "a.safetensors",
        "safetensors",
        drawn,
        JobContext(where, CPU, NoCache(), NoProgress()),
    ).report()
    assert report["top1_agreement"] == 1.0
    merged = load_file(tmp_path / "a.safetensors")
    assert merged["head.weight"].shape == (3, 64)
    assert "vit_base_patch16_clip_224" in report["use"]


def test_prompts_in_the_image_tower_are_not_merged(learn_clip, drawn, tmp_path, towers_file):
    learn_clip(drawn, tmp_path / "a.fewshot", "coprompt", "method.epochs=1")
    context = JobContext(Source(towers_file, offline=True), CPU, NoCache(), NoProgress())
    with pytest.raises(FewshotError, match="reads tokens beside those of the picture"):
        export(tmp_path / "a.fewshot", tmp_path / "a.safetensors", "safetensors", None, context)


@pytest.mark.slow
def test_an_adapter_of_peft_is_refused_with_what_works(learn_clip, drawn, tmp_path, towers_file):
    learn_clip(drawn, tmp_path / "a.fewshot", "lora", "method.tuning.optim.steps=2")
    with pytest.raises(FewshotError, match="two towers"):
        context = JobContext(Source(towers_file, offline=True), CPU, NoCache(), NoProgress())
        export(tmp_path / "a.fewshot", tmp_path / "a", "peft", drawn, context)


@pytest.mark.slow
def test_half_precision_and_openai_spelling_are_the_same_base(learn_clip, drawn, tmp_path, towers_file):
    """A file is read in whatever spelling it is; OpenAI's are in half precision, and so another base."""
    learn_clip(drawn, tmp_path / "a.fewshot")
    spelled = {f"module.{name}": values for name, values in load_file(towers_file).items()}
    other = tmp_path / "other.safetensors"
    save_file(spelled | {"input_resolution": torch.tensor(64)}, other)
    assert load_model(tmp_path / "a.fewshot", Source(other, offline=True), CPU).classes == ("cat", "house", "star")
