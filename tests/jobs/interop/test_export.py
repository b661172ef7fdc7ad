import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fewshot_cli.engine.head.linear import Head
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.interop import export as exporting
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.proofs.logits import TOLERANCE_ELSEWHERE
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")
QUICK = "method.tuning.optim.steps=2"


@pytest.fixture
def export(weights):
    def export(file: Path, output: Path, format_: str, images: Path | None = None, backbone: str = "test_vit"):
        context = JobContext(Source(weights[backbone], offline=True), CPU, NoCache(), NoProgress())
        return exporting.export(file, output, format_, images, context).report()

    return export


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (10, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def live_logits(file: Path, weights: Path, pictures: torch.Tensor) -> torch.Tensor:
    model = load_model(file, Source(weights), CPU)
    return model.model.logits(pictures)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_vit", "test_efficientnet"])
@pytest.mark.parametrize("recipe", ["lda", "protonet-euclidean"])
def test_merged_weights_load_strictly_into_plain_timm(
    backbone, recipe, drawn, tmp_path, learn, export, weights, pictures
):
    learn(drawn, tmp_path / "x.fewshot", recipe, backbone=backbone)
    report = export(tmp_path / "x.fewshot", tmp_path / "x.safetensors", "safetensors", backbone=backbone)
    size = {"img_size": 64} if backbone == "test_vit" else {}
    plain = timm.create_model(backbone, num_classes=3, **size).eval()
    plain.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
    live = live_logits(tmp_path / "x.fewshot", weights[backbone], pictures)
    normalised = load_model(tmp_path / "x.fewshot", Source(weights[backbone]), CPU).backbone.normalised(pictures)
    with torch.no_grad():
        written = plain(normalised)
    torch.testing.assert_close(written, live, rtol=1e-4, atol=1e-4 * float(live.abs().max()))
    assert report["top1_agreement"] == 1 and report["bytes"] == (tmp_path / "x.safetensors").stat().st_size
    assert json.loads((tmp_path / "x.safetensors.run.json").read_text()) == report
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["classes"]) == report["classes"]


@pytest.mark.slow
def test_an_adapted_backbone_is_merged(drawn, tmp_path, learn, export, weights, pictures):
    """A cosine head has no bias: as a linear layer its logits are those of the file times the features' norm."""
    learn(drawn, tmp_path / "x.fewshot", "lora", QUICK, "method.tuning.optim.lr=0.01")
    export(tmp_path / "x.fewshot", tmp_path / "x.safetensors", "safetensors")
    merged, base = load_file(tmp_path / "x.safetensors"), load_file(weights["test_vit"])
    changed = set(read_delta_file(tmp_path / "x.fewshot").delta)
    assert changed
    assert all(
        torch.equal(merged[n], base[n]) != (n in changed)
        for n in merged
        if n in base and "head" not in n and n != "pos_embed"
    )
    plain = timm.create_model("test_vit", num_classes=3, img_size=64).eval()
    plain.load_state_dict(merged, strict=True)
    model = load_model(tmp_path / "x.fewshot", Source(weights["test_vit"]), CPU)
    with torch.no_grad():
        written = plain(model.backbone.normalised(pictures))
    live = live_logits(tmp_path / "x.fewshot", weights["test_vit"], pictures)
    ratio = written / live
    torch.testing.assert_close(ratio, ratio.mean(1, keepdim=True).expand_as(ratio), rtol=1e-2, atol=1e-2)
    assert torch.equal(written.argmax(1), live.argmax(1))


@pytest.mark.slow
def test_what_timm_cannot_express_is_refused(drawn, tmp_path, learn, export):
    learn(drawn, tmp_path / "x.fewshot", "protonet")
    found = read_delta_file(tmp_path / "x.fewshot")
    head = Head(found.head.weight, found.head.bias + 1, unit_norm=True)
    write_delta_file(tmp_path / "y.fewshot", found.header.model_copy(update={"unit_norm": True}), found.delta, head)
    with pytest.raises(FewshotError, match="timm") as caught:
        export(tmp_path / "y.fewshot", tmp_path / "out" / "x.safetensors", "safetensors")
    assert "onnx" in caught.value.hint
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "recipe"), [("test_vit", "lora"), ("test_efficientnet", "ridge")])
def test_onnx_takes_batches_of_any_size_and_describes_itself(
    backbone, recipe, drawn, tmp_path, learn, export, weights, pictures
):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    changes = [QUICK] if recipe == "lora" else []
    learn(drawn, tmp_path / "x.fewshot", recipe, *changes, backbone=backbone)
    report = export(tmp_path / "x.fewshot", tmp_path / "x.onnx", "onnx", backbone=backbone)
    model = load_model(tmp_path / "x.fewshot", Source(weights[backbone]), CPU)
    live = live_logits(tmp_path / "x.fewshot", weights[backbone], pictures)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    images = model.backbone.normalised(pictures).numpy()
    for count in (1, 2, 7):
        (logits,) = session.run(["logits"], {"images": images[:count]})
        torch.testing.assert_close(
            torch.from_numpy(logits), live[:count], rtol=1e-3, atol=1e-3 * float(live.abs().max())
        )
    facts = {item.key: item.value for item in onnx.load(tmp_path / "x.onnx").metadata_props}
    assert json.loads(facts["classes"]) == report["classes"] == list(model.classes)
    preprocessing = json.loads(facts["preprocessing"])
    assert tuple(preprocessing["size"]) == model.backbone.preprocessing.size
    assert tuple(preprocessing["mean"]) == model.backbone.preprocessing.mean
    assert preprocessing["interpolation"] == model.backbone.preprocessing.interpolation
    assert report["max_abs_diff"] <= TOLERANCE_ELSEWHERE * max(1, float(live.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("before", [None, b"an older file"])
def test_a_failed_proof_leaves_no_file(drawn, tmp_path, learn, export, monkeypatch, before):
    learn(drawn, tmp_path / "x.fewshot", "lda")
    output = tmp_path / "out" / "x.safetensors"
    if before:
        output.parent.mkdir()
        output.write_bytes(before)
    write = exporting._write_merged

    def perturbed(path, model):
        answers = write(path, model)
        return lambda images: answers(images) * 1.1

    monkeypatch.setattr(exporting, "_write_merged", perturbed)
    with pytest.raises(CheckFailed, match="does not give the model's answers") as caught:
        export(tmp_path / "x.fewshot", output, "safetensors")
    assert caught.value.exit_code == 3
    assert [path.read_bytes() for path in output.parent.iterdir()] == ([before] if before else [])


@pytest.mark.slow
def test_it_is_proved_on_the_images_given_else_on_those_learned_from_else_on_drawn_ones(
    drawn, photos, unseen, tmp_path, learn, export
):
    learn(photos, tmp_path / "x.fewshot", "lda")
    report = export(tmp_path / "x.fewshot", tmp_path / "x.safetensors", "safetensors", unseen)
    assert (report["proved_on"], report["images"]) == (str(unseen), 15)
    report = export(tmp_path / "x.fewshot", tmp_path / "x.safetensors", "safetensors")
    assert (report["proved_on"], report["images"]) == (str(photos), 12)
    photos.rename(tmp_path / "elsewhere")
    assert export(tmp_path / "x.fewshot", tmp_path / "x.safetensors", "safetensors")["proved_on"] == "drawn pictures"
    with pytest.raises(FewshotError, match="can be read"):
        export(tmp_path / "x.fewshot", tmp_path / "x.safetensors", "safetensors", tmp_path / "nowhere")


@pytest.mark.slow
def test_the_same_export_gives_the_same_bytes(drawn, tmp_path, learn, export):
    learn(drawn, tmp_path / "x.fewshot", "lda")
    for name in ("a", "b"):
        export(tmp_path / "x.fewshot", tmp_path / name, "safetensors")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.slow
def test_the_delta_file_itself_is_no_output(drawn, tmp_path, learn, export):
    learn(drawn, tmp_path / "x.fewshot", "lda")
    before = (tmp_path / "x.fewshot").read_bytes()
    with pytest.raises(FewshotError, match="delta file itself"):
        export(tmp_path / "x.fewshot", tmp_path / "x.fewshot", "safetensors")
    assert (tmp_path / "x.fewshot").read_bytes() == before
