"""`fewshot cache`: what is remembered, and what is left of it when some is cleared."""

import json
import time
from pathlib import Path

import pytest

from fewshot_cli.storage import store
from fewshot_cli.storage.feature_cache import cache_folder


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def used(fewshot, drawn, tiny, tmp_path, folder) -> Path:
    """The cache folder after a run that trains, with what an older version left and a file that isn't ours."""
    changes = ["--set", "method.tuning.optim.steps=1", "--set", "method.tuning.optim.epochs=0"]
    result = fewshot("adapt", drawn, "-o", tmp_path / "x.fewshot", "--method", "norms", *changes, *tiny)
    assert result.exit_code == 0, result.output
    (folder / "pixels").mkdir()
    (folder / "pixels" / "a.npy").write_bytes(bytes(5000))
    (folder / "a.lock").touch()
    (folder / "mine.txt").write_text("not fewshot's")
    return folder


def shown(fewshot) -> dict[str, dict[str, int]]:
    return json.loads(fewshot("cache", "show", "--json").stdout)["kinds"]


def test_an_empty_cache(fewshot, folder):
    assert all(held["bytes"] == 0 for held in shown(fewshot).values())
    assert fewshot("cache").exit_code == 0 and fewshot("cache", "clear").exit_code == 0
    assert not folder.exists()


def test_what_is_there_is_shown(fewshot, used, drawn):
    kinds = shown(fewshot)
    count = len(list(drawn.glob("*/*")))
    assert kinds["features"]["values"] == kinds["pictures"]["values"] == count
    assert kinds["pictures"]["bytes"] == (used / "pictures.sqlite").stat().st_size
    assert kinds["other"]["bytes"] == 5000
    text = fewshot("cache").stdout
    assert str(cache_folder()) in text and f"{count}: images, decoded and resized" in text


def test_kinds_are_cleared_one_by_one_and_what_is_not_ours_stays(fewshot, used):
    before = shown(fewshot)
    found = json.loads(fewshot("cache", "clear", "pictures", "--json").stdout)
    assert found["freed"] == {"pictures": before["pictures"]["bytes"]}
    assert shown(fewshot)["features"] == before["features"] and shown(fewshot)["pictures"]["bytes"] == 0
    assert fewshot("cache", "clear").exit_code == 0
    assert all(held["bytes"] == 0 for held in shown(fewshot).values())
    assert [path.name for path in used.iterdir()] == ["mine.txt"]


def test_what_was_not_used_for_long_is_cleared(fewshot, used, monkeypatch):
    before = shown(fewshot)
    fewshot("cache", "clear", "--unused-for", "30")
    assert shown(fewshot) == before
    now = time.time()
    monkeypatch.setattr(store.time, "time", lambda: now + 31 * 86400)
    found = json.loads(fewshot("cache", "clear", "--unused-for", "30", "--json").stdout)
    assert set(found["freed"]) == {"features", "pictures"} and found["freed"]["pictures"] > 0
    assert shown(fewshot)["pictures"]["values"] == shown(fewshot)["features"]["values"] == 0
    assert shown(fewshot)["other"] == before["other"]


def test_mistakes_are_sentences(fewshot, used):
    for words, said in (
        (["photos"], "features, pictures, weights, other"),
        (["weights", "--unused-for", "3"], "--unused-for"),
        (["--unused-for", "nan"], "--unused-for"),
    ):
        result = fewshot("cache", "clear", *words)
        assert result.exit_code == 2 and said in result.stderr
    assert shown(fewshot)["features"]["values"] > 0
