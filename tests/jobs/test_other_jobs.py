"""verify, inspect, doctor, backbones and the recipes' listing."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fewshot_cli.engine.delta.change import LowRank, Sparse
from fewshot_cli.engine.model import timm_models as backbones_module
from fewshot_cli.errors import CheckFailed, FewshotError
from fewshot_cli.formats.delta.file import read_delta_file
from fewshot_cli.jobs.backbones import backbones
from fewshot_cli.jobs.classify.doctor import doctor
from fewshot_cli.jobs.models.backbones import Source
from fewshot_cli.jobs.models.classifiers import load_model
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.recipes import checked, listed, text
from fewshot_cli.jobs.share.describe import inspect
from fewshot_cli.jobs.share.verify import verify
from fewshot_cli.meta_recipes import recipe_names
from fewshot_cli.recipes import DEFAULT_BACKBONE

CPU = torch.device("cpu")
QUICK = "method.tuning.optim.steps=2"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ridge", "lora", "saft", "bitfit"])
def test_verify_accepts_what_adapt_wrote(recipe, drawn, tmp_path, learn, source):
    changes = [] if recipe == "ridge" else [QUICK]
    learn(drawn, tmp_path / "x.fewshot", recipe, *changes)
    report = verify(tmp_path / "x.fewshot", source, CPU)
    assert report.checks["content hash"] == read_delta_file(tmp_path / "x.fewshot").digest


def test_a_file_made_at_another_size_builds_the_backbone_once(drawn, tmp_path, learn, source, monkeypatch):
    learn(drawn, tmp_path / "x.fewshot", image_size=96)
    built = []
    original = backbones_module._built
    monkeypatch.setattr(backbones_module, "_built", lambda *given: built.append(given[2]) or original(*given))
    model = load_model(tmp_path / "x.fewshot", source, CPU)
    assert built == [96] and model.backbone.preprocessing.size == (96, 96)


def test_verify_refuses_damage_and_another_base_but_a_missing_file_is_no_check(drawn, tmp_path, learn, source, weights):
    file = tmp_path / "x.fewshot"
    learn(drawn, file)
    other = load_file(weights["test_vit"])
    other["cls_token"] += 1
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(CheckFailed, match="not the ones"):
        verify(file, Source(tmp_path / "other.safetensors"), CPU)
    content = file.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"\1", b""):
        file.write_bytes(damaged)
        with pytest.raises(CheckFailed):
            verify(file, source, CPU)
    file.write_bytes(content)
    for missing in (
        lambda: verify(tmp_path / "none", source, CPU),
        lambda: verify(file, Source(tmp_path / "none"), CPU),
    ):
        with pytest.raises(FewshotError, match="There is no") as caught:
            missing()
        assert caught.value.exit_code == 2


def test_a_file_of_version_1_has_the_same_numbers_when_written_again():
    from fewshot_cli.jobs.share.verify import _round_trip

    path = Path(__file__).parents[1] / "formats" / "delta" / "data" / "version-1.fewshot"
    assert "same numbers" in _round_trip(path, read_delta_file(path))


@pytest.mark.parametrize(("recipe", "form"), [("lora", "low rank"), ("saft", "sparse"), ("bitfit", "dense")])
def test_inspect_says_what_the_file_holds(recipe, form, drawn, tmp_path, learn):
    learned = learn(drawn, tmp_path / "x.fewshot", recipe, QUICK)
    report = inspect(tmp_path / "x.fewshot").report()
    file = read_delta_file(tmp_path / "x.fewshot")
    for key in ("backbone", "method", "classes", "bytes", "density", "seed", "images", "data", "expected_accuracy"):
        assert report[key] == learned[key]
    assert {change["parameter"]: change["changed"] for change in report["changes"]} == {
        name: change.nonzeros() for name, change in file.delta.items()
    }
    forms = {change["parameter"]: change["form"] for change in report["changes"]}
    assert form in forms.values()
    assert all((forms[n] == "low rank") == isinstance(c, LowRank) for n, c in file.delta.items())
    assert all((forms[n] == "sparse") == isinstance(c, Sparse) for n, c in file.delta.items())
    assert all(change["values"] == "float32" for change in report["changes"]) and report["values"] == "float32"
    assert report["bytes_per_changed_weight"] == report["bytes"] / sum(
        change["changed"] for change in report["changes"]
    )


def test_inspect_of_a_head_alone(drawn, tmp_path, learn):
    learn(drawn, tmp_path / "x.fewshot")
    report = inspect(tmp_path / "x.fewshot").report()
    assert report["changes"] == [] and report["density"] == 0


def test_doctor_names_every_problem_and_changes_nothing(photos):
    first = sorted((photos / "cat").iterdir())[0]
    shutil.copy(first, photos / "star" / "twin.jpg")
    (photos / "house" / "cut.jpg").write_bytes(first.read_bytes()[:400])
    (photos / "empty").mkdir()
    before = sorted(photos.rglob("*"))
    report = doctor(photos, NoProgress()).report()
    assert sorted(photos.rglob("*")) == before
    found = {(finding["kind"], finding["path"].rsplit("/", 1)[-1]) for finding in report["findings"]}
    assert {("cross-class-copy", "twin.jpg"), ("truncated", "cut.jpg"), ("empty-class", "empty")} <= found
    assert sum(report["counts"].values()) == len(report["findings"])
    assert report["findings"][0]["severity"] == "error"
    assert all(finding["problem"] and finding["remedy"] for finding in report["findings"])


def test_doctor_has_nothing_to_say_about_good_pictures(drawn):
    assert doctor(drawn, NoProgress()).report()["findings"] == []


@pytest.mark.slow
def test_what_doctor_calls_an_error_stops_adapt_and_nothing_else_does(photos, tmp_path, learn):
    (photos / "cat" / "cut.jpg").write_bytes(sorted((photos / "cat").iterdir())[0].read_bytes()[:400])
    assert "error" not in doctor(photos, NoProgress()).report()["counts"]
    learn(photos, tmp_path / "x.fewshot")
    shutil.copy(sorted((photos / "cat").iterdir())[0], photos / "star" / "twin.jpg")
    assert "error" in doctor(photos, NoProgress()).report()["counts"]
    with pytest.raises(FewshotError):
        learn(photos, tmp_path / "x.fewshot")


def test_backbones_are_found_by_part_of_their_name():
    found = backbones("efficientnet_lite")["backbones"]
    assert found and all("efficientnet_lite" in name for name in found)
    assert any(name.startswith(DEFAULT_BACKBONE) for name in found)
    assert backbones("tf_*_lite?.in1k")["backbones"] == [
        n for n in found if n.startswith("tf_") and n.endswith(".in1k")
    ]
    assert backbones("no such thing")["backbones"] == []
    assert len(backbones("")["backbones"]) > len(found)


def test_every_recipe_is_listed_with_what_it_is_for():
    rows = listed()["recipes"]
    assert [row["name"] for row in rows] == recipe_names()
    assert len({row["about"] for row in rows}) == len(rows)
    assert all(row["about"] and "#" not in row["about"] for row in rows)


def test_checking_spells_out_every_setting():
    recipe = checked("lora", ["method.rank=3"])["recipe"]
    assert recipe["method"]["rank"] == 3 and recipe["backbone"] == DEFAULT_BACKBONE
    assert set(recipe["method"]["tuning"]["optim"]) >= {"lr", "steps", "momentum"}


def test_a_recipe_that_is_no_text_is_an_error(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FewshotError, match="can't be read as text"):
        text(str(tmp_path / "x.yaml"))
