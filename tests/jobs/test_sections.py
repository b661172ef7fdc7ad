"""Files with a graft, a transductive head or the support set: everything one does with a file."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file
from fewshot_cli.formats.delta.sections import KeptGraft
from fewshot_cli.jobs.context import JobContext
from fewshot_cli.jobs.interop.export import export
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share.compose import ComposeSettings, compose
from fewshot_cli.jobs.share.describe import inspect
from fewshot_cli.jobs.share.verify import verify
from fewshot_cli.storage.feature_cache import NoCache

CPU = torch.device("cpu")
QUICK = ("method.tuning.optim.steps=2", "method.tuning.optim.lr=0.01")
TIM = ("method.lr=0.01", "method.steps=20")


@pytest.fixture
def grafted(drawn, tmp_path, learn):
    path = tmp_path / "moa.fewshot"
    learn(drawn, path, "moa", *QUICK)
    return path


@pytest.fixture
def transductive(drawn, tmp_path, learn):
    path = tmp_path / "tim.fewshot"
    learn(drawn, path, "tim", *TIM)
    return path


def version(path) -> str:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length))["__metadata__"]["version"]


@pytest.mark.slow
@pytest.mark.parametrize("values", ["float32", "float16", "int8"])
def test_a_file_with_a_graft_is_proved_verified_and_told_of(drawn, tmp_path, learn, source, values):
    path = tmp_path / "moa.fewshot"
    report = learn(drawn, path, "moa", *QUICK, values=values)
    assert report["max_abs_diff"] < 1e-4
    assert version(path) == "3"
    assert verify(path, source, CPU).checks["round trip"] == "written again, it is the same"
    told = inspect(path).report()
    assert told["graft"]["kind"]["name"] == "token mixture"
    assert told["graft"]["sites"] == list(read_delta_file(path).graft.facts.sites)
    assert told["graft"]["values"] > 10_000 and told["density"] == 0
    assert not told["head"]["transductive"] and told["support"] is None


def test_a_plain_file_is_still_of_version_2(drawn, tmp_path, learn):
    learn(drawn, tmp_path / "plain.fewshot", "lora", *QUICK)
    assert version(tmp_path / "plain.fewshot") == "2"


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["safetensors", "peft"])
def test_a_graft_is_not_merged_and_the_reason_is_given(grafted, tmp_path, source, format_):
    if format_ == "peft":
        pytest.importorskip("peft")
    with pytest.raises(FewshotError, match="each token chooses its own adapter") as caught:
        export(grafted, tmp_path / "out", format_, None, JobContext(source, CPU, NoCache(), NoProgress()))
    assert "onnx" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_graft_goes_to_onnx(grafted, tmp_path, source, unseen):
    pytest.importorskip("onnxruntime")
    report = export(
        grafted, tmp_path / "out.onnx", "onnx", unseen, JobContext(source, CPU, NoCache(), NoProgress())
    ).report()
    assert report["top1_agreement"] == 1
    assert report["max_abs_diff"] < 1e-3


@pytest.mark.slow
def test_a_map_of_features_is_not_merged_and_goes_without(drawn, tmp_path, learn, source):
    learn(drawn, tmp_path / "map.fewshot", "tsa", *QUICK)
    with pytest.raises(FewshotError, match=r"method\.map=false"):
        export(
            tmp_path / "map.fewshot",
            tmp_path / "out",
            "safetensors",
            None,
            JobContext(source, CPU, NoCache(), NoProgress()),
        )
    learn(drawn, tmp_path / "none.fewshot", "tsa", *QUICK, "method.map=false")
    assert version(tmp_path / "none.fewshot") == "2"
    assert export(
        tmp_path / "none.fewshot",
        tmp_path / "out",
        "safetensors",
        None,
        JobContext(source, CPU, NoCache(), NoProgress()),
    ).bytes


@pytest.mark.slow
@pytest.mark.parametrize("which", ["grafted", "transductive"])
def test_neither_is_composed(which, request, drawn, tmp_path, learn):
    path = request.getfixturevalue(which)
    learn(drawn, tmp_path / "other.fewshot", "ridge")
    with pytest.raises(FewshotError, match="can't be composed with others"):
        compose([tmp_path / "other.fewshot", path], tmp_path / "out.fewshot", ComposeSettings(), NoProgress())


@pytest.mark.slow
def test_several_files_answer_as_each_alone_does(grafted, transductive, drawn, unseen, tmp_path, learn, predict):
    """Deltas are swapped in and out of the weights that a graft's copy of the module shares."""
    learn(drawn, tmp_path / "bitfit.fewshot", "bitfit", *QUICK)
    learn(drawn, tmp_path / "ridge.fewshot", "ridge")
    files = [tmp_path / "bitfit.fewshot", grafted, transductive, tmp_path / "ridge.fewshot"]
    together = predict(files, unseen)["predictions"]
    for path in files:
        alone = predict(path, unseen)["predictions"]
        mine = [row for row in together if row["file"] == str(path)]
        assert [row["label"] for row in mine] == [row["label"] for row in alone]
        for one, other in zip(mine, alone, strict=True):
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-4)


@pytest.mark.slow
def test_a_transductive_file_holds_the_support_set_and_says_so(transductive, source, predict, unseen, drawn):
    file = read_delta_file(transductive)
    assert version(transductive) == "3" and len(file.support.labels) == 12
    assert verify(transductive, source, CPU).checks["round trip"] == "written again, it is the same"
    told = inspect(transductive).report()
    assert told["head"]["transductive"]["name"] == "tim"
    assert told["support"] == {"images": 12, "bytes": file.support.bytes}
    model = load_model(transductive, source, CPU).model
    everything = predict(transductive, unseen, drawn)
    assert everything["transductive"] is True
    some = predict(transductive, unseen / "cat")["predictions"]
    first = {row["path"]: row["probability"] for row in everything["predictions"]}
    assert any(abs(first[row["path"]] - row["probability"]) > 1e-3 for row in some)  # asked about with others
    assert model.adapted.head.dim == model.backbone.dim


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["safetensors", "onnx"])
def test_a_transductive_head_is_not_exported(transductive, tmp_path, source, format_):
    with pytest.raises(FewshotError, match="transductive"):
        export(transductive, tmp_path / "out", format_, None, JobContext(source, CPU, NoCache(), NoProgress()))


@pytest.mark.slow
def test_a_transductive_head_is_evaluated_on_all_pictures_at_once(transductive, evaluate, unseen, predict):
    report = evaluate(transductive, unseen)
    right = [row["label"] == row["path"].split("/")[-2] for row in predict(transductive, unseen)["predictions"]]
    assert report["accuracy"] == pytest.approx(sum(right) / len(right))


@pytest.mark.slow
def test_the_support_set_is_kept_where_it_is_asked_for(drawn, tmp_path, learn, source, predict, unseen):
    plain, kept = tmp_path / "plain.fewshot", tmp_path / "kept.fewshot"
    without = learn(drawn, plain, "bitfit", *QUICK)
    report = learn(drawn, kept, "bitfit", *QUICK, keep_support=True)
    assert without["support_bytes"] is None and version(plain) == "2"
    section = read_delta_file(kept).support
    assert report["support_bytes"] == section.bytes == 12 * (64 * 2 + 4)
    assert 0 <= kept.stat().st_size - plain.stat().st_size - section.bytes < 400
    model = load_model(kept, source, CPU).model
    assert section.labels.bincount().tolist() == [4, 4, 4]
    answers = [report["classes"][i] for i in model.answers(section.features).argmax(1)]  # as the adapted backbone sees
    assert answers == [row["label"] for row in predict(kept, drawn)["predictions"]]
    assert verify(kept, source, CPU)
    rows = [predict(path, unseen)["predictions"] for path in (plain, kept)]
    assert [row["label"] for row in rows[0]] == [row["label"] for row in rows[1]]


@pytest.mark.slow
def test_a_graft_that_does_not_fit_is_found_before_it_is_used(grafted, tmp_path, source):
    file = read_delta_file(grafted)
    name = max(file.graft.params)
    wrong = {
        "a tensor less": (file.graft.facts, {n: v for n, v in file.graft.params.items() if n != name}),
        "another shape": (file.graft.facts, file.graft.params | {name: torch.zeros(3)}),
        "another place": (file.graft.facts.model_copy(update={"sites": ("blocks.9.attn.qkv",)}), file.graft.params),
        "another kind": (file.graft.facts.model_copy(update={"kind": {"name": "plugin"}}), file.graft.params),
        "a wrong setting": (
            file.graft.facts.model_copy(update={"kind": file.graft.facts.kind | {"size": -1}}),
            file.graft.params,
        ),
    }
    for why, (facts, params) in wrong.items():
        path = tmp_path / "wrong.fewshot"
        write_delta_file(path, file.header, file.delta, file.head, "float32", "float32", KeptGraft(facts, params))
        with pytest.raises(FewshotError, match=r"graft"):
            load_model(path, source, CPU)
        with pytest.raises((CheckFailed, FewshotError)):
            verify(path, source, CPU)
        assert why


@pytest.mark.slow
def test_a_changed_section_is_damage(transductive, tmp_path):
    tensors = load_file(transductive)
    with transductive.open("rb") as file:
        metadata = json.loads(file.read(int.from_bytes(file.read(8), "little")))["__metadata__"]
    tensors["support.labels"] = 1 - tensors["support.labels"].clamp(max=1)
    save_file(tensors, tmp_path / "changed.fewshot", metadata)
    with pytest.raises(FewshotError, match="does not match its hash"):
        read_delta_file(tmp_path / "changed.fewshot")


@pytest.mark.slow
def test_labels_and_features_of_the_section_are_checked(transductive, tmp_path):
    file = read_delta_file(transductive)
    for labels, features in (
        (file.support.labels + 3, file.support.features),
        (file.support.labels[:-1], file.support.features),
    ):
        section = type(file.support)(features, labels)
        path = tmp_path / "wrong.fewshot"
        write_delta_file(path, file.header, {}, file.head, "float32", "float32", None, section)
        with pytest.raises(FewshotError, match=r"support\.labels"):
            read_delta_file(path)
