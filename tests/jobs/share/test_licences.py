"""The licence of the base, from wherever its weights come to whoever asks."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.formats.weights import agreed_licence
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.interop.export import export
from fewshot_cli.jobs.models.backbones import Source, load_backbone
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.compose import ComposeSettings, compose
from fewshot_cli.jobs.share.describe import inspect
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")


@pytest.fixture
def stated(weights, tmp_path):
    """The tiny model's weights in a file that states this licence, under this key."""

    def stated(licence: str, key: str = "license"):
        save_file(load_file(weights["test_vit"]), tmp_path / f"{licence}.safetensors", {key: licence})
        return tmp_path / f"{licence}.safetensors"

    return stated


@pytest.mark.slow
def test_a_file_of_weights_has_the_licence_that_it_states_and_no_other(weights, stated, drawn, tmp_path, learn):
    """timm states one of its own weights of this name, and these may be anybody's."""
    for file, licence in (
        (weights["test_vit"], "unknown"),
        (stated("cc-by-nc-4.0"), "cc-by-nc-4.0, as its file says"),
        (stated("mit", "licence"), "mit, as its file says"),
    ):
        learn(drawn, tmp_path / "x.fewshot", weights_file=file)
        assert inspect(tmp_path / "x.fewshot").licence == licence


def test_weights_that_timm_names_have_the_licence_that_timm_states():
    assert load_backbone("tf_efficientnet_lite0", Source(offline=True), 64, CPU).licence == "apache-2.0"


@pytest.mark.slow
def test_what_a_file_knows_of_its_base_goes_with_it(weights, stated, drawn, tmp_path, learn, source):
    """A bank, an export and a composed file are on the same weights, wherever these come from the next time."""
    said = "mit, as its file says"
    learn(drawn, tmp_path / "a.fewshot", weights_file=stated("mit"))
    model = load_model(tmp_path / "a.fewshot", source, CPU)
    assert source.weights == weights["test_vit"] and model.backbone.licence == said
    context = JobContext(source, model.backbone.device, NoCache(), NoProgress())
    assert export(tmp_path / "a.fewshot", tmp_path / "a.st", "safetensors", None, context).licence == said
    write_folder(tmp_path / "in", ("flower", "star"), 2, seed=3, size=64)
    learn(tmp_path / "in", tmp_path / "b.fewshot")
    compose([tmp_path / "a.fewshot", tmp_path / "b.fewshot"], tmp_path / "ab.fewshot", ComposeSettings(), NoProgress())
    assert read_delta_file(tmp_path / "ab.fewshot").header.base.licence == said


@pytest.mark.slow
def test_a_bank_passes_it_on(drawn, tmp_path, learn, random_bank, vit, source):
    bank = random_bank(tmp_path / "z.bank", vit, "dense", std=0.001)  # of a base under timm's word
    learn(drawn, tmp_path / "a.fewshot", "protonet", bank=bank)
    assert inspect(tmp_path / "a.fewshot").licence == vit.licence == inspect(bank).licence != "unknown"


@pytest.mark.parametrize(
    ("stated", "agreed"),
    [
        (["unknown", "unknown"], "unknown"),
        (["unknown", "mit"], "mit"),
        (["gemma, as its file says", "mit", "unknown"], "mit"),
        (["gemma, as its file says", "unknown"], "gemma, as its file says"),
        (["mit", "gemma"], "gemma and mit"),
    ],
)
def test_what_several_state_of_the_same_weights(stated, agreed):
    assert agreed_licence(stated) == agreed
