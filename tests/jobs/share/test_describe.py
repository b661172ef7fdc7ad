"""inspect of a bank, and its picture."""

import xml.etree.ElementTree as ET
from io import StringIO

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from fewshot_cli.engine.meta.smat.bank_statistics import layer_of
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.bank import read_bank, write_bank
from fewshot_cli.jobs.share.describe import check_picture, draw, inspect
from fewshot_cli.reports.terminal.bank import bank_shown, kind


@pytest.fixture(scope="module")
def bank(tmp_path_factory, random_bank, vit):
    """Experts on the tiny transformer; not to be changed."""
    return random_bank(tmp_path_factory.mktemp("bank") / "x.bank", vit)


@pytest.fixture(scope="module")
def dense(tmp_path_factory, random_bank, vit):
    return random_bank(tmp_path_factory.mktemp("bank") / "dense.bank", vit, "dense")


def test_a_bank_of_experts_is_counted(bank, vit):
    report, read = inspect(bank), read_bank(bank)
    is_open = read.gates > 0
    assert report.kind == "experts" and report.experts == 3
    assert report.size == read.header.size == is_open.shape[1]
    assert report.bytes == bank.stat().st_size < report.bytes_as_float32 == 16 * report.size
    assert report.sha256 == read.digest
    assert report.fingerprint == vit.fingerprint
    assert report.expert_density == pytest.approx(tuple(is_open.double().mean(1).tolist()))
    assert report.density == pytest.approx(float(is_open.any(0).double().mean()))
    between = [float((row[row > 0] < 1).double().mean()) for row in read.gates]
    assert report.expert_between == pytest.approx(tuple(between))
    for a, first in enumerate(is_open):
        for b, second in enumerate(is_open):
            shared = int((first & second).sum()) / int((first | second).sum())
            assert report.overlap[a][b] == pytest.approx(shared)
            p, q = float(first.double().mean()), float(second.double().mean())
            chance = 1 if a == b else p * q / (p + q - p * q)
            assert report.overlap_by_chance[a][b] == pytest.approx(chance)
    assert report.router == {"pool": "mean", "temperature": 0.5}
    assert {"recipe", "seed", "episodes", "data", "validation", "versions", "parent"} <= set(report.report())


@pytest.mark.slow
def test_layers_of_a_bank_are_counted(bank):
    report, read = inspect(bank), read_bank(bank)
    names = [name for name, shape in read.header.shapes.items() for _ in range(torch.Size(shape).numel())]
    for layer in report.layers:
        here = torch.tensor([layer_of(name) == layer.name for name in names])
        assert layer.size == int(here.sum())
        assert layer.density == pytest.approx(tuple((read.gates[:, here] > 0).double().mean(1).tolist()))
        assert layer.norm == pytest.approx(float(read.delta[here].norm()), rel=1e-5)
    assert sum(layer.size for layer in report.layers) == report.size
    assert [layer.name for layer in report.layers][-2:] == ["blocks.5", "norm"]


def test_a_dense_bank_has_no_experts(dense):
    report, read = inspect(dense), read_bank(dense)
    assert report.kind == "dense" and report.experts == 0
    assert report.expert_density == report.expert_between == report.overlap == report.overlap_by_chance == ()
    assert report.density == pytest.approx(float((read.delta != 0).double().mean()))
    assert all(len(layer.density) == 1 for layer in report.layers)


def test_a_file_of_neither_kind_is_refused(bank, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    (tmp_path / "words").write_text("no tensors")
    (tmp_path / "cut.bank").write_bytes(bank.read_bytes()[:-7])
    for name, words in (("x.safetensors", "not a"), ("words", "not a"), ("cut.bank", "damaged"), ("none", "no delta")):
        with pytest.raises(FewshotError, match=words):
            inspect(tmp_path / name)


def test_a_bank_that_was_changed_is_refused(bank, tmp_path):
    content = bytearray(bank.read_bytes())
    content[-1] ^= 1
    (tmp_path / "x.bank").write_bytes(content)
    with pytest.raises(FewshotError, match="damaged"):
        inspect(tmp_path / "x.bank")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["bank", "dense"])
def test_pictures_are_written(which, request, tmp_path):
    report = inspect(request.getfixturevalue(which))
    for form in ("svg", "png", "html", "PNG"):
        check_picture(tmp_path / f"deep/x.{form}")
        draw(report, tmp_path / f"deep/x.{form}")
    assert ET.parse(tmp_path / "deep/x.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "deep/x.png").read_bytes() == (tmp_path / "deep/x.PNG").read_bytes()
    assert (tmp_path / "deep/x.png").read_bytes().startswith(b"\x89PNG")
    assert "blocks.5" in (tmp_path / "deep/x.svg").read_text()
    assert "blocks.5" in (tmp_path / "deep/x.html").read_text()


@pytest.mark.slow
def test_what_can_not_be_drawn_is_told(drawn, tmp_path, learn):
    for name in ("x.gif", "x", ".svg"):
        with pytest.raises(FewshotError, match="no kind of picture"):
            check_picture(tmp_path / name)
    learn(drawn, tmp_path / "x.fewshot")
    with pytest.raises(FewshotError, match="only banks"):
        draw(inspect(tmp_path / "x.fewshot"), tmp_path / "x.svg")
    assert not (tmp_path / "x.svg").exists()


@pytest.mark.slow
def test_a_bank_of_another_kind_with_a_change_is_told_of_and_drawn(dense, tmp_path):
    read = read_bank(dense)
    header = read.header.model_copy(update={"kind": "warped gradients", "settings": {"steps": 3}})
    path = tmp_path / "x.bank"
    write_bank(path, header, read.delta, None, {"rates": torch.ones(2, 3)})
    report = inspect(path)
    assert report.layers == inspect(dense).layers and report.tensors == {"rates": (2, 3)}
    assert kind(report).startswith("warped gradients: 1 tensor and one change of ")
    console = Console(width=100, file=StringIO())
    console.print(bank_shown(report))
    said = console.file.getvalue()
    assert "2 x 3" in said and "root mean square" in said and "steps: 3" in said
    for suffix in (".svg", ".html"):
        draw(report, tmp_path / f"x{suffix}")
        assert (tmp_path / f"x{suffix}").stat().st_size > 1000
