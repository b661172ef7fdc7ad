"""Adapters next to PEFT itself: what we write gives the same logits there, and what it writes the same here."""

import contextlib
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.engine.delta.change import LowRank, Sparse, all_values
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file
from fewshot_cli.formats.peft_folder import CONFIG, NOTE, TENSORS
from fewshot_cli.jobs.classify.adapt import AdaptSettings, adapt
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.interop import export as exporting
from fewshot_cli.jobs.interop import peft_export as export_peft
from fewshot_cli.jobs.interop import peft_import as import_peft
from fewshot_cli.jobs.interop.peft_export import with_base
from fewshot_cli.jobs.interop.peft_import import ImportSettings, import_adapter
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.verify import verify
from fewshot_cli.recipes import load_recipe
from fewshot_cli.storage.feature_cache import NoCache

peft = pytest.importorskip("peft")

CPU = torch.device("cpu")
QUICK = ("method.tuning.optim.steps=2", "method.tuning.optim.lr=0.01")
SIZE = 64
NAMES = ("cat", "house", "star")


@pytest.fixture(scope="module")
def learned(drawn, weights, tmp_path_factory) -> Path:
    """A classifier with changes of low rank; not to be changed."""
    file = tmp_path_factory.mktemp("learned") / "x.fewshot"
    recipe = load_recipe("lora", QUICK, backbone="test_vit", image_size=SIZE)
    context = JobContext(Source(weights["test_vit"], True), CPU, NoCache(), NoProgress())
    adapt(drawn, file, AdaptSettings(recipe, folds=0), context)
    return file


@pytest.fixture
def export(weights):
    def export(file: Path, output: Path, backbone: str = "test_vit"):
        source = Source(weights[backbone], offline=True)
        return exporting.export(file, output, "peft", None, JobContext(source, CPU, NoCache(), NoProgress())).report()

    return export


@pytest.fixture
def back(weights):
    def back(folder: Path, output: Path, base: str = "test_vit", **wanted):
        return import_adapter(
            folder, output, ImportSettings(**wanted), None, Source(weights[base], True), NoProgress()
        ).report()

    return back


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (6, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def trained(weights, tmp_path, pictures):
    """An adapter of PEFT with random values in all that it trains, its folder, and its logits of the pictures."""

    def trained(config, backbone="test_vit"):
        base = build_backbone(backbone, load_file(weights[backbone]), SIZE)
        plain, _ = with_base(base, len(NAMES))
        with torch.random.fork_rng():  # PEFT draws from the generator of all, wherever other tests left it
            torch.manual_seed(0)
            model = peft.get_peft_model(plain, config).eval()
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    scale = 0.3 if "vera" in name else 0.05
                    parameter += scale * torch.randn(parameter.shape, generator=rng)
            logits = model(base.normalised(pictures))
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", logits

    return trained


def logits_of(file: Path, weights: Path, pictures: torch.Tensor) -> torch.Tensor:
    model = load_model(file, Source(weights), CPU)
    return model.model.logits(pictures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "backbone", "kind", "values"),
    [
        ("lora", "test_vit", "LoRA", "float32"),
        ("lora", "test_efficientnet", "LoRA", "float16"),
        ("shira", "test_vit", "SHiRA", "float32"),
        ("shira", "test_vit", "SHiRA", "int8"),
    ],
)
def test_what_was_learned_goes_to_peft_and_comes_back_as_it_was(
    recipe, backbone, kind, values, drawn, tmp_path, learn, export, back, weights
):
    file, again = tmp_path / "x.fewshot", tmp_path / "y.fewshot"
    linear = ["method.targets=(qkv|proj|fc1)\\.weight$"] if recipe == "shira" else []
    learn(drawn, file, recipe, *QUICK, *linear, backbone=backbone, values=values)
    report = export(file, tmp_path / "adapter", backbone)
    assert report["top1_agreement"] == 1 and report["unit_norm"]
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "adapter").iterdir())
    report = back(tmp_path / "adapter", again, backbone)
    assert (report["kind"], report["restored"], report["proved"], report["top1_agreement"]) == (kind, True, True, 1)
    before, after = read_delta_file(file), read_delta_file(again)
    assert before.delta.keys() == after.delta.keys() and before.header == after.header
    is_adapted = {LowRank: "lora", Sparse: "shira"}
    for name, change in before.delta.items():
        assert is_adapted.get(type(change), recipe) == recipe
        if name != "patch_embed.proj.weight":  # a kernel, which comes whole: to the last bit only where it is rounded
            assert torch.equal(all_values(after.delta[name]), all_values(change)), name
    if values != "float32":
        assert again.read_bytes() == file.read_bytes()
    assert verify(again, Source(weights[backbone]), CPU).checks["round trip"]


def snippet_in(folder: Path) -> str:
    (found,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_the_lines_in_the_readme_answer_as_the_file_does(
    head, unseen, tmp_path, learned, export, predict, weights, monkeypatch, capsys
):
    file, photo = tmp_path / "x.fewshot", tmp_path / "photo.jpg"
    shutil.copy(learned, file)
    if head == "linear":
        found = read_delta_file(file)
        linear = Head(found.head.weight, found.head.bias + 0.1, unit_norm=False)
        write_delta_file(file, found.header.model_copy(update={"unit_norm": False}), found.delta, linear)
    export(file, tmp_path / "my adapter")
    source = sorted((unseen / "house").iterdir())[0]
    photo.write_bytes(source.read_bytes())
    (tmp_path / weights["test_vit"].name).write_bytes(weights["test_vit"].read_bytes())
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(snippet_in(tmp_path / "my adapter"), {})
    label, probability = capsys.readouterr().out.split()
    (ours,) = predict(file, photo)["predictions"]
    assert label == ours["label"]
    assert float(probability) == pytest.approx(ours["probability"], abs=0.01)  # timm resizes a little otherwise


LINEAR = {"target_modules": ["qkv", "fc1"], "modules_to_save": ["head"]}
KERNELS = {"target_modules": "blocks.*conv_pwl?|conv_stem|.*conv_exp", "modules_to_save": ["classifier"]}


def configs():
    lora, shira, vera = peft.LoraConfig, peft.ShiraConfig, peft.VeraConfig
    yield "lora", lora(r=3, lora_alpha=5, lora_dropout=0.1, **LINEAR), "test_vit"
    yield "rslora", lora(r=3, lora_alpha=5, use_rslora=True, **LINEAR), "test_vit"
    patterns = {"rank_pattern": {"blocks.1.attn.qkv": 1, "fc1": 5}, "alpha_pattern": {r"^blocks\.[23]\..*": 7}}
    yield "patterns", lora(r=2, lora_alpha=3, use_rslora=True, **patterns, **LINEAR), "test_vit"
    yield "convolutions", lora(r=4, **KERNELS), "test_efficientnet"
    yield "with norms", lora(r=2, target_modules=["qkv"], modules_to_save=["head", "norm1"]), "test_vit"
    yield "shira", shira(r=2, **LINEAR), "test_vit"
    yield "vera", vera(r=4, **LINEAR), "test_vit"
    yield "vera drawn again", vera(r=5, save_projection=False, projection_prng_key=7, **LINEAR), "test_vit"


@pytest.mark.slow
@pytest.mark.parametrize(("config", "backbone"), [pytest.param(c, b, id=i) for i, c, b in configs()])
def test_what_peft_trained_gives_its_logits_here(config, backbone, trained, back, tmp_path, weights, pictures, predict):
    folder, logits = trained(config, backbone)
    file = tmp_path / "x.fewshot"
    report = back(folder, file, backbone, backbone=backbone, classes=NAMES, image_size=SIZE)
    assert not report["restored"] and report["proved"] and report["density"] > 0.01
    found = logits_of(file, weights[backbone], pictures)
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-5 * float(logits.abs().max()))
    base = Source(weights[backbone], offline=True)
    frozen = load_model(file, base, CPU)
    without = frozen.file.head.logits(frozen.backbone.frozen_features(pictures))
    assert float((without - logits).abs().max()) > 0.01 * float(logits.abs().max()), "the adapter does something"
    header = frozen.file.header
    assert header.classes == NAMES and header.method == f"peft {config.peft_type.value.lower()}"
    assert header.recipe["method"]["config"]["r"] == config.r
    assert header.provenance.expected_accuracy.mean is None
    assert verify(file, base, CPU)


@pytest.mark.slow
def test_what_peft_trained_can_be_rounded_exported_and_asked(
    trained, back, export, tmp_path, predict, evaluate, unseen, weights, pictures
):
    folder, _ = trained(peft.LoraConfig(r=3, **LINEAR))
    wanted = {"backbone": "test_vit", "classes": NAMES, "image_size": SIZE}
    report = back(folder, tmp_path / "x.fewshot", **wanted, values="float16")
    assert report["values"] == {"stored": "float16", "head": "float32"} and 0 < report["max_abs_diff"] < 0.1
    assert len(predict(tmp_path / "x.fewshot", unseen)["predictions"]) == 15
    assert evaluate(tmp_path / "x.fewshot", unseen)["n"] == 15
    export(tmp_path / "x.fewshot", tmp_path / "again")
    assert back(tmp_path / "again", tmp_path / "y.fewshot")["restored"]
    assert (tmp_path / "y.fewshot").read_bytes() == (tmp_path / "x.fewshot").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_an_adapter_in_any_type_of_floats_is_read(dtype, trained, back, tmp_path, weights, pictures):
    folder, _ = trained(peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"]))
    tensors = {name: values.to(dtype) for name, values in load_file(folder / TENSORS).items()}
    save_file(tensors, folder / TENSORS)
    back(folder, tmp_path / "x.fewshot", backbone="test_vit", classes=NAMES, image_size=SIZE)
    found = logits_of(tmp_path / "x.fewshot", weights["test_vit"], pictures)
    save_file({name: values.float() for name, values in tensors.items()}, folder / TENSORS)
    back(folder, tmp_path / "y.fewshot", backbone="test_vit", classes=NAMES, image_size=SIZE)
    assert torch.equal(found, logits_of(tmp_path / "y.fewshot", weights["test_vit"], pictures))


@pytest.mark.slow
@pytest.mark.parametrize("odd", [{"lora_dropout": float("nan")}, {"revision": {"a": [1, None]}}, {"peft_version": 3}])
def test_settings_that_change_no_answer_may_be_anything(odd, trained, back, tmp_path):
    folder, _ = trained(peft.LoraConfig(r=2, target_modules=["qkv"], modules_to_save=["head"]))
    config = json.loads((folder / CONFIG).read_text()) | odd
    (folder / CONFIG).write_text(json.dumps(config))
    with contextlib.suppress(CheckFailed):  # PEFT itself may refuse it
        back(folder, tmp_path / "x.fewshot", backbone="test_vit", classes=NAMES, image_size=SIZE)
        assert read_delta_file(tmp_path / "x.fewshot").header.classes == NAMES


@pytest.mark.slow
def test_classes_are_named_and_counted(trained, back, tmp_path):
    folder, _ = trained(peft.LoraConfig(r=1, **LINEAR))
    wanted = {"backbone": "test_vit", "image_size": SIZE}
    with pytest.raises(FewshotError, match="does not say which model"):
        back(folder, tmp_path / "x.fewshot", classes=NAMES)
    for classes, says in [(None, "its 3 classes"), (("a", "b"), "3 classes apart, and 2"), (("a", "b", "a"), "twice")]:
        with pytest.raises(FewshotError, match=says) as caught:
            back(folder, tmp_path / "x.fewshot", **wanted, classes=classes)
        assert "--classes" in caught.value.hint
    assert not (tmp_path / "x.fewshot").exists()


@pytest.mark.slow
def test_an_adapter_without_a_classifier_is_refused(trained, back, tmp_path):
    folder, _ = trained(peft.LoraConfig(r=1, target_modules=["qkv"]))
    with pytest.raises(FewshotError, match="no classifier") as caught:
        back(folder, tmp_path / "x.fewshot", backbone="test_vit", classes=NAMES, image_size=SIZE)
    assert "modules_to_save=['head']" in caught.value.hint


@pytest.mark.slow
def test_an_adapter_of_another_model_is_refused(trained, back, tmp_path):
    folder, _ = trained(peft.LoraConfig(r=1, **LINEAR))
    with pytest.raises(FewshotError, match="does not have"):
        back(folder, tmp_path / "x.fewshot", "test_efficientnet", backbone="test_efficientnet", classes=NAMES)


@pytest.mark.slow
def test_without_peft_an_import_says_that_it_is_not_proved_and_an_export_stops(
    trained, back, export, learned, tmp_path, monkeypatch, weights, pictures
):
    folder, logits = trained(peft.LoraConfig(r=1, **LINEAR))
    shutil.copy(learned, tmp_path / "x.fewshot")
    monkeypatch.setattr("fewshot_cli.formats.peft_config.find_spec", lambda name: None)
    report = back(folder, tmp_path / "y.fewshot", backbone="test_vit", classes=NAMES, image_size=SIZE)
    assert not report["proved"] and report["peft"] is None
    found = logits_of(tmp_path / "y.fewshot", weights["test_vit"], pictures)
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-5 * float(logits.abs().max()))
    with pytest.raises(FewshotError, match="not installed") as caught:
        export(tmp_path / "nothing.fewshot", tmp_path / "adapter")
    assert "fewshot-cli[peft]" in caught.value.hint


@pytest.mark.slow
def test_what_was_trained_on_since_the_export_is_no_longer_what_it_was(tmp_path, learned, export, back):
    shutil.copy(learned, tmp_path / "x.fewshot")
    folder = tmp_path / "adapter"
    export(tmp_path / "x.fewshot", folder)
    tensors = load_file(folder / TENSORS)
    save_file({name: values * 1.01 for name, values in tensors.items()}, folder / TENSORS)
    report = back(folder, tmp_path / "y.fewshot")
    assert not report["restored"] and report["classes"] == list(NAMES)
    header = read_delta_file(tmp_path / "y.fewshot").header
    assert not header.unit_norm and header.method == "peft lora" and header.provenance.images == 0


@pytest.mark.slow
def test_an_export_belongs_to_its_base(tmp_path, learned, export, back, random_weights):
    shutil.copy(learned, tmp_path / "x.fewshot")
    export(tmp_path / "x.fewshot", tmp_path / "adapter")
    save_file(random_weights("test_vit", seed=1), tmp_path / "other.safetensors")
    source = Source(tmp_path / "other.safetensors", offline=True)
    with pytest.raises(FewshotError, match="not the ones"):
        import_adapter(tmp_path / "adapter", tmp_path / "y.fewshot", ImportSettings(), None, source, NoProgress())
    with pytest.raises(FewshotError, match="exported for test_vit"):
        back(tmp_path / "adapter", tmp_path / "y.fewshot", backbone="test_efficientnet")


@pytest.mark.slow
def test_an_adapter_takes_the_place_of_an_adapter_only(tmp_path, learned, export):
    file, folder = tmp_path / "x.fewshot", tmp_path / "adapter"
    shutil.copy(learned, file)
    export(file, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == {CONFIG, TENSORS, NOTE, "README.md"}
    export(file, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FewshotError, match="other things"):
        export(file, folder)
    with pytest.raises(FewshotError, match="is a file"):
        export(file, file)
    assert json.loads((folder / CONFIG).read_text())["peft_type"] == "LORA"
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True])
def test_a_failed_proof_leaves_what_was_there(before, tmp_path, learned, export, back, monkeypatch):
    file, folder = tmp_path / "x.fewshot", tmp_path / "out" / "adapter"
    shutil.copy(learned, file)
    if before:
        export(file, folder)
    kept = sorted((path, path.read_bytes()) for path in folder.parent.rglob("*") if path.is_file())
    for module in (export_peft, import_peft):
        monkeypatch.setattr(module, "answers_of", lambda model: lambda images: 1.1 * model(images).detach())
    with pytest.raises(CheckFailed, match="does not give the model's answers"):
        export(file, folder)
    assert sorted((path, path.read_bytes()) for path in folder.parent.rglob("*") if path.is_file()) == kept
    if before:
        with pytest.raises(CheckFailed, match="PEFT gives other answers"):
            back(folder, tmp_path / "y.fewshot")
        assert not (tmp_path / "y.fewshot").exists()


@pytest.mark.slow
def test_the_biases_have_no_adapter(drawn, tmp_path, learn, export):
    learn(drawn, tmp_path / "x.fewshot", "bitfit", QUICK[0])
    with pytest.raises(FewshotError, match="bias"):
        export(tmp_path / "x.fewshot", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_a_bias_on_unit_norm_features_is_refused(tmp_path, learned, export):
    shutil.copy(learned, tmp_path / "x.fewshot")
    found = read_delta_file(tmp_path / "x.fewshot")
    head = Head(found.head.weight, found.head.bias + 1, unit_norm=True)
    write_delta_file(tmp_path / "x.fewshot", found.header, found.delta, head)
    with pytest.raises(FewshotError, match="unit norm"):
        export(tmp_path / "x.fewshot", tmp_path / "adapter")
