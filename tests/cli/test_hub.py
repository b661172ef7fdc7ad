"""`fewshot push` and `fewshot pull` against a stand-in of the hub."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import _detect_agent

from fewshot_cli.formats.delta.file import read_delta_file, write_delta_file
from fewshot_cli.formats.delta.sections import KeptHead, kept_support
from fewshot_cli.storage import hub as client

spec = importlib.util.spec_from_file_location("hub", Path(__file__).parents[1] / "hub.py")
standing_in = importlib.util.module_from_spec(spec)
sys.modules["hub"] = standing_in
spec.loader.exec_module(standing_in)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty hub, to which the one who is logged in may write."""
    server = standing_in.Hub().start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "writer")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    # what the client only listens to when it is imported
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_detect_agent, "_registry", {})
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def unanswered(monkeypatch):
    """No second attempt: the client's own waits for seconds before each."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


def refused(result, *words: str) -> None:
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    assert result.stdout == "" and result.stderr.startswith("Error: ") and "Traceback" not in result.stderr
    problem, hint = result.stderr.strip().split("\n")
    assert problem.endswith(".") and hint
    for word in words:
        assert word in result.stderr, result.stderr


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_what_is_pushed_is_pulled(fewshot, hub, file, tmp_path):
    pushed = fewshot("push", file, "ada/things", "--message", "Three things", "--json")
    assert pushed.exit_code == 0 and pushed.stderr == "", pushed.output
    report = json.loads(pushed.stdout)
    assert report["url"] == f"{hub.url}/ada/things" and report["pull"] == "fewshot pull ada/things"
    assert report["files"] == ["x.fewshot", "README.md"] and report["card_kept"] is None and not report["private"]
    assert set(hub.files("ada/things")) == {"x.fewshot", "README.md"}  # and not the record of the run
    assert not hub.leaked and hub.asked["PUT stored"] == 1

    pulled = fewshot("pull", "ada/things", "--json")
    assert pulled.exit_code == 0 and pulled.stderr == "", pulled.output
    report = json.loads(pulled.stdout)
    assert report["classes"] == ["cat", "house", "star"] and report["kind"] == "delta"
    assert (tmp_path / "x.fewshot").read_bytes() == file.read_bytes() and left(tmp_path) == ["x.fewshot"]
    assert hub.asked["GET resolve"] == 0 and hub.asked["GET stored"] == 1  # nothing but the one file
    assert fewshot("pull", "ada/things").exit_code == 0  # what is there already is the same
    assert "fewshot predict x.fewshot" in fewshot("pull", "ada/things").stdout


@pytest.mark.slow
def test_a_bank_goes_there_and_back(fewshot, hub, random_bank, vit, tmp_path):
    bank = random_bank(tmp_path / "a.bank", vit)
    result = fewshot("push", bank, "ada/bank", "--private")
    assert result.exit_code == 0 and "private" in result.stdout, result.output
    assert hub.repos["ada/bank"].private
    result = fewshot("pull", "ada/bank", "-o", tmp_path / "in" / "b.bank")
    assert result.exit_code == 0 and "--bank" in result.stdout, result.output
    assert (tmp_path / "in" / "b.bank").read_bytes() == bank.read_bytes()


@pytest.mark.slow
def test_the_card_is_one_of_the_hub(fewshot, hub, file):
    fewshot("push", file, "ada/things")
    text = hub.files("ada/things")["README.md"].decode()
    card = ModelCard(text)
    assert card.data.pipeline_tag == "image-classification" and card.data.license == "unknown"
    assert card.data.eval_results and "fewshot pull ada/things --file x.fewshot" in card.text
    assert "\r" not in text and str(file.parent) not in text


@pytest.mark.slow
def test_a_card_is_replaced_only_where_nobody_has_touched_it(fewshot, hub, file, other):
    fewshot("push", file, "ada/things")
    first = hub.files("ada/things")["README.md"]
    report = json.loads(fewshot("push", other, "ada/things", "--json").stdout)
    assert "x.fewshot" in report["card_kept"] and hub.files("ada/things")["README.md"] == first
    assert report["pull"] == "fewshot pull ada/things --file y.fewshot"

    hub.add("ada/edited", {"README.md": first.replace(b"## Limits", b"## Mind the limits")})
    report = json.loads(fewshot("push", file, "ada/edited", "--json").stdout)
    assert "a person" in report["card_kept"] and report["files"] == ["x.fewshot"]
    assert b"## Mind the limits" in hub.files("ada/edited")["README.md"]

    hub.add("ada/untouched", {"README.md": first.replace(b"\n", b"\r\n")})
    report = json.loads(fewshot("push", file, "ada/untouched", "--json").stdout)
    assert report["card_kept"] is None and hub.files("ada/untouched")["README.md"] == first.replace(
        b"ada/things", b"ada/untouched"
    ).replace(*_signatures(first, hub.files("ada/untouched")["README.md"]))


def _signatures(*cards: bytes) -> list[bytes]:
    return [card.split(b", ")[-1] for card in cards]


@pytest.mark.slow
def test_branches_and_records_of_the_run_are_for_those_who_ask(fewshot, hub, file, tmp_path):
    result = fewshot("push", file, "ada/things", "--revision", "v2", "--run")
    assert result.exit_code == 0 and "fewshot pull ada/things --revision v2" in result.stdout, result.output
    assert hub.files("ada/things") == {}
    assert set(hub.files("ada/things", "v2")) == {"x.fewshot", "x.fewshot.run.json", "README.md"}
    refused(fewshot("pull", "ada/things"), "no file that ends in")
    assert fewshot("pull", "ada/things", "--revision", "v2").exit_code == 0
    (tmp_path / "z.fewshot").write_bytes(file.read_bytes())
    refused(fewshot("push", tmp_path / "z.fewshot", "ada/things", "--run"), "z.fewshot.run.json")


@pytest.mark.slow
def test_one_of_several_is_asked_for(fewshot, hub, file, tmp_path):
    content = file.read_bytes()
    hub.add("ada/many", {"a.fewshot": content, "in/b.fewshot": content, "model.pt": b"x"})
    refused(fewshot("pull", "ada/many"), "a.fewshot, in/b.fewshot", "--file")
    refused(fewshot("pull", "ada/many", "--file", "c.fewshot"), "no file 'c.fewshot'", "a.fewshot")
    assert fewshot("pull", "ada/many", "--file", "in/b.fewshot").exit_code == 0
    assert left(tmp_path) == ["b.fewshot"]
    refused(fewshot("pull", "ada/many", "--file", "model.pt"), "ada/many/model.pt is not a delta file")
    assert left(tmp_path) == ["b.fewshot"]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["change", "cut"])
def test_a_damaged_download_leaves_nothing_behind(fewshot, hub, file, tmp_path, fault, unanswered):
    hub.add("ada/things", {"x.fewshot": file.read_bytes()})
    hub.faults["GET stored"] = fault
    refused(fewshot("pull", "ada/things"), "damaged" if fault == "change" else "size")
    assert left(tmp_path) == []
    (tmp_path / "mine.fewshot").write_bytes(b"mine")
    assert fewshot("pull", "ada/things", "-o", tmp_path / "mine.fewshot").exit_code == 2
    assert (tmp_path / "mine.fewshot").read_bytes() == b"mine" and left(tmp_path) == ["mine.fewshot"]


@pytest.mark.slow
def test_what_is_there_already_is_not_lost(fewshot, hub, file, tmp_path):
    hub.add("ada/things", {"x.fewshot": file.read_bytes()})
    (tmp_path / "x.fewshot").write_bytes(b"mine")
    refused(fewshot("pull", "ada/things"), "x.fewshot is there already", "-o")
    assert (tmp_path / "x.fewshot").read_bytes() == b"mine"
    assert fewshot("pull", "ada/things", "-o", "x.fewshot").exit_code == 0
    assert (tmp_path / "x.fewshot").read_bytes() == file.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["PUT stored", "POST commit", "POST preupload"])
def test_an_interrupted_upload_leaves_the_repository_as_it_was(fewshot, hub, file, broken, unanswered):
    hub.add("ada/things", {})
    hub.faults[broken] = "break"
    refused(fewshot("push", file, "ada/things"), "can't be reached, or the connection broke")
    assert hub.files("ada/things") == {}
    hub.faults.clear()
    assert fewshot("push", file, "ada/things").exit_code == 0
    assert hub.files("ada/things")["x.fewshot"] == file.read_bytes()


@pytest.mark.slow
def test_what_somebody_else_did_meanwhile_is_not_lost(fewshot, hub, file):
    repo = hub.add("ada/things", {})
    hub.meanwhile = lambda: repo.commit("main", {"README.md": b"written by a person"})
    refused(fewshot("push", file, "ada/things"), "Somebody else", "again")
    assert hub.files("ada/things") == {"README.md": b"written by a person"}


@pytest.mark.slow
def test_a_damaged_file_is_not_pushed(fewshot, hub, file, tmp_path):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    (tmp_path / "x.fewshot").write_bytes(content)
    refused(fewshot("push", tmp_path / "x.fewshot", "ada/things"), "damaged")
    (tmp_path / "README.md").write_bytes(file.read_bytes())
    refused(fewshot("push", tmp_path / "README.md", "ada/things"), "Rename")
    assert not hub.repos and not hub.asked


@pytest.mark.slow
def test_who_may_not_is_told_so(fewshot, hub, file, monkeypatch):
    hub.add("others/things", {"x.fewshot": file.read_bytes()})
    hub.add("ada/secret", {"x.fewshot": file.read_bytes()}, private=True)
    hub.add("ada/gated", {"x.fewshot": file.read_bytes()}, gated=True)
    refused(fewshot("push", file, "others/new"), "may not write to others/new")
    refused(fewshot("push", file, "others/things"), "may not write to others/things")
    refused(fewshot("push", file, "others/things", "--private"), "others/things is public")
    refused(fewshot("pull", "ada/gated"), "gated")
    refused(fewshot("pull", "ada/none"), "no repository ada/none")
    refused(fewshot("pull", "ada/secret", "--revision", "v9"), "no revision 'v9'")
    monkeypatch.delenv("HF_TOKEN")
    refused(fewshot("pull", "ada/secret"), "private", "HF_TOKEN")
    asked = sum(hub.asked.values())
    refused(fewshot("push", file, "ada/new"), "logged in", "hf auth login")
    assert sum(hub.asked.values()) == asked


@pytest.mark.slow
@pytest.mark.parametrize(("status", "word"), [(429, "too often"), (500, "error 500"), (401, "token")])
def test_what_is_wrong_with_the_hub_is_told(fewshot, hub, status, word):
    hub.add("ada/things", {})
    hub.faults["GET info"] = status
    refused(fewshot("pull", "ada/things"), word)


@pytest.mark.slow
def test_without_a_network(fewshot, hub, file, monkeypatch, tmp_path):
    refused(fewshot("pull", "ada/things", "--offline"), "--offline")
    refused(fewshot("push", file, "ada/things", "--offline"), "--offline")
    for name in ("things", "ada/things/x", "ada/../x", "https://there/ada"):
        refused(fewshot("pull", name), "OWNER/NAME")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(fewshot("pull", "ada/things"), "HF_HUB_OFFLINE")
    assert not hub.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    refused(fewshot("pull", "ada/things"), "http://127.0.0.1:9 can't be reached")
    assert left(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [".fewshot", "-o.fewshot", "a\nb.fewshot", "a\\b/.x.fewshot"])
def test_a_hub_does_not_choose_odd_names(fewshot, hub, file, name, tmp_path):
    hub.add("ada/things", {name: file.read_bytes()})
    refused(fewshot("pull", "ada/things"), "odd name", "-o")
    assert left(tmp_path) == []


def test_nothing_is_unpickled_and_the_token_is_nobodys_argument():
    source = Path(client.__file__).read_text()
    assert "pickle" not in source and "token=" not in source


@pytest.mark.slow
def test_the_support_set_stays_here_unless_it_is_asked_for(fewshot, hub, file, tmp_path, vit):
    read = read_delta_file(file)
    features = torch.randn(6, read.head.dim, generator=torch.Generator().manual_seed(0))
    section = kept_support(features, torch.arange(6) % len(read.header.classes))
    kept, plain = tmp_path / "kept.fewshot", file.read_bytes()
    stored = read.stored
    write_delta_file(kept, read.header, read.delta, read.head, stored.values, stored.head, None, section)
    report = json.loads(fewshot("push", kept, "ada/things", "--json").stdout)
    fewshot("pull", "ada/things", "-o", tmp_path / "pulled.fewshot")
    assert (tmp_path / "pulled.fewshot").read_bytes() == plain
    assert (report["bytes"], report["sha256"]) == (len(plain), read.digest)
    fewshot("push", kept, "ada/whole", "--support")
    fewshot("pull", "ada/whole", "-o", tmp_path / "whole.fewshot")
    assert (tmp_path / "whole.fewshot").read_bytes() == kept.read_bytes()
    refused(fewshot("push", file, "ada/things", "--support"), "keeps no support set")
    head = KeptHead({"name": "tim"}, 1.0)
    write_delta_file(kept, read.header, read.delta, head, "float32", "float32", None, section)
    refused(fewshot("push", kept, "ada/things"), "answers from the support set", "--support")
