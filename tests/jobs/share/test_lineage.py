"""Where a file comes from, as far as the files beside it tell."""

import os
import shutil
from pathlib import Path

import pytest

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.delta.file import read_any_delta_file, write_delta_file
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.jobs.share import compose as composing
from fewshot_cli.jobs.share import lineage as chains
from fewshot_cli.jobs.share.describe import inspect


@pytest.fixture
def family(tmp_path, drawn, learn, random_bank, vit):
    """Of a bank, a delta file from it, one without, what both compose, and what that and a third do; their folder."""
    folder = tmp_path / "family"
    folder.mkdir()
    random_bank(folder / "z.bank", vit, "dense", std=0.001)
    learn(drawn, folder / "a.fewshot", "protonet", bank=folder / "z.bank")
    for name, labels in (("b", ("flower", "star")), ("c", ("tree", "fish"))):
        write_folder(tmp_path / name, labels, 2, seed=3, size=64)
        learn(tmp_path / name, folder / f"{name}.fewshot", "protonet")
    composing.compose(
        [folder / "a.fewshot", folder / "b.fewshot"], folder / "ab.fewshot", composing.ComposeSettings(), NoProgress()
    )
    composing.compose(
        [folder / "ab.fewshot", folder / "c.fewshot"], folder / "abc.fewshot", composing.ComposeSettings(), NoProgress()
    )
    return folder


def link(chain, *path):
    """The link with this file name, however deep; None where the chain has none."""
    if str(chain["file"]).endswith(path):
        return chain
    older = [*chain.get("parents", []), *([chain["bank"]] if chain.get("bank") else [])]
    return next((found for one in older if (found := link(one, *path))), None)


@pytest.mark.slow
def test_the_whole_chain_is_told(family):
    chain = inspect(family / "abc.fewshot").report()["chain"]
    assert chain["base"].keys() == {"backbone", "licence", "fingerprint"} and chain["method"] == "compose"
    assert {Path(parent["file"]).name for parent in chain["parents"]} == {"ab.fewshot", "c.fewshot"}
    a = link(chain, "/a.fewshot")
    assert a["classes"] == ["cat", "house", "star"] and a["images"] == 12 and a["method"] == "protonet"
    assert a == {k: v for k, v in inspect(family / "a.fewshot").report()["chain"].items() if k != "base"}
    bank = a["bank"]
    assert bank["kind"] == "bank" and bank["file"] == str(family / "z.bank") and bank["method"] == "smat"
    assert a["recipe"]["bank"] == "z.bank"  # and no folder of this machine
    assert link(chain, "/b.fewshot")["bank"] is None


@pytest.mark.slow
def test_what_is_not_there_is_named_by_its_digest(family, tmp_path):
    digest = read_any_delta_file(family / "c.fewshot").digest
    (family / "c.fewshot").unlink()
    missing = [
        parent for parent in inspect(family / "abc.fewshot").report()["chain"]["parents"] if parent["file"] is None
    ]
    assert missing == [{"kind": "delta", "sha256": digest, "file": None}]
    shutil.copy(family / "a.fewshot", tmp_path / "alone.fewshot")
    alone = inspect(tmp_path / "alone.fewshot").report()["chain"]["bank"]
    assert alone["file"] is None and alone["sha256"] == inspect(family / "z.bank").report()["sha256"]


@pytest.mark.slow
def test_a_bank_from_elsewhere_is_taken_only_if_it_is_the_one(family, tmp_path, random_bank, vit):
    shutil.copy(family / "a.fewshot", tmp_path / "alone.fewshot")
    chain = inspect(tmp_path / "alone.fewshot", [family / "z.bank"]).report()["chain"]
    assert chain["bank"]["file"] == str(family / "z.bank")
    other = random_bank(tmp_path / "other.bank", vit, "dense", seed=9)
    with pytest.raises(FewshotError, match=r"other.bank is not a bank that .*alone.fewshot comes from"):
        inspect(tmp_path / "alone.fewshot", [other])
    with pytest.raises(FewshotError, match="not a bank"):
        inspect(tmp_path / "alone.fewshot", [family / "b.fewshot"])


@pytest.mark.slow
def test_broken_neighbours_are_none(family):
    """One that claims the digest of a parent, and comes first, is not believed; nothing else stops it either."""
    content = bytearray((family / "c.fewshot").read_bytes())
    content[-1] ^= 1
    (family / "Aa.fewshot").write_bytes(content)
    (family / "b2.fewshot").write_bytes(b"\xff" * 100)
    (family / "b3.bank").mkdir()
    (family / "b4.safetensors").symlink_to(family / "nowhere")
    os.mkfifo(family / "b5.fewshot")
    c = link(inspect(family / "abc.fewshot").report()["chain"], "/c.fewshot")
    assert c is not None and c["classes"] == ["fish", "tree"]
    (family / "c.fewshot").unlink()
    assert {parent["file"] for parent in inspect(family / "abc.fewshot").report()["chain"]["parents"]} == {
        str(family / "ab.fewshot"),
        None,
    }


@pytest.mark.slow
def test_only_headers_are_read_of_what_is_no_ancestor(family, monkeypatch):
    read = []
    monkeypatch.setattr(chains, "read_any_delta_file", lambda path: read.append(path.name) or read_any_delta_file(path))
    inspect(family / "ab.fewshot")
    assert sorted(read) == ["a.fewshot", "b.fewshot"]
    read.clear()
    inspect(family / "b.fewshot")
    assert read == []


def test_a_long_line_is_cut_and_nobody_is_told_of_twice(tmp_path, drawn, learn):
    """Every file is composed of the one before, named many times over: without a bound, more links than can be told."""
    learn(drawn, tmp_path / "0.fewshot", "protonet")
    file = read_any_delta_file(tmp_path / "0.fewshot")
    generations = chains.MOST_GENERATIONS + 4
    for i in range(1, generations):
        provenance = file.header.provenance.model_copy(update={"parents": (file.digest,) * 3})
        header = file.header.model_copy(update={"provenance": provenance})
        write_delta_file(tmp_path / f"{i}.fewshot", header, file.delta, file.head)
        file = read_any_delta_file(tmp_path / f"{i}.fewshot")
    chain = inspect(tmp_path / f"{generations - 1}.fewshot").report()["chain"]
    first, *others = chain["parents"]
    assert "parents" in first and all("parents" not in other and other["file"] == first["file"] for other in others)
    depth = 0
    while chain.get("parents"):
        chain, depth = chain["parents"][0], depth + 1
    assert depth == chains.MOST_GENERATIONS + 1
