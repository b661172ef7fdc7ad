"""From pictures to features: each read, decoded and embedded once, whatever the cache holds and the disk takes."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from fewshot_cli.engine.model.chunks import CPU_PICTURES
from fewshot_cli.engine.model.timm_models import build_backbone
from fewshot_cli.errors import FewshotError
from fewshot_cli.images import image_bytes
from fewshot_cli.images.drawing import write_folder
from fewshot_cli.images.image_ref import Content, StoredFile
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.jobs import features, pictures
from fewshot_cli.jobs.data import load_data
from fewshot_cli.jobs.features import embed, features_by_each
from fewshot_cli.jobs.progress import NoProgress
from fewshot_cli.storage import store
from fewshot_cli.storage.feature_cache import FeatureCache, NoCache


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The contents that are decoded, one after another."""
    found: list[str] = []
    original = Content.picture
    monkeypatch.setattr(Content, "picture", lambda one, how: original(found.append(one.hash) or one, how))
    return found


@pytest.fixture
def opened(monkeypatch) -> list[Path]:
    """The files that are read."""
    found: list[Path] = []
    original = image_bytes.file_bytes
    monkeypatch.setattr(image_bytes, "file_bytes", lambda path, most: found.append(path) or original(path, most))
    return found


def files(folder: Path) -> list[StoredFile]:
    return [StoredFile(path) for path in sorted(folder.glob("*/*"))]


def plain(stored: Sequence[StoredFile], vit) -> torch.Tensor:
    return torch.from_numpy(np.stack([one.load(vit.preprocessing) for one in stored]))


def test_every_picture_is_read_once_and_decoded_once(drawn, vit, decoded, opened):
    cache = FeatureCache()
    seen = embed(vit, files(drawn), cache, NoProgress(), decode=True)
    assert torch.equal(seen.pictures[torch.arange(12)], plain(files(drawn), vit))
    assert sorted(opened)[::2] == sorted(drawn.glob("*/*"))  # the other half is `plain`
    assert len(decoded) == 24 and len(set(decoded)) == 12
    torch.testing.assert_close(seen.features, vit.frozen_features(plain(files(drawn), vit)), atol=1e-4, rtol=1e-4)


def test_a_picture_that_is_added_is_the_only_one_decoded(photos, vit, decoded, passes):
    cache = FeatureCache()
    first = embed(vit, files(photos), cache, NoProgress(), decode=True)
    write_folder(photos, ["fish"], 1, seed=0, size=64)
    decoded.clear(), passes.clear()
    second = embed(vit, files(photos), cache, NoProgress(), decode=True)
    assert len(decoded) == 1 and passes == [vit.chunk]
    assert len(second.readable) == len(first.readable) + 1
    old = [second.contents.index(content) for content in first.contents]
    assert torch.equal(second.features[old], first.features)
    assert torch.equal(second.pictures[torch.tensor(old)], first.pictures[torch.arange(len(old))])
    assert len(decoded) == 1


def test_no_more_is_embedded_than_there_is_beyond_one_small_unit(tmp_path, vit, passes):
    write_folder(tmp_path, ("cat", "key", "fish"), 25, seed=0, size=32)
    backbone = build_backbone("test_vit", vit.source, image_size=32)
    passes.clear()
    load_data(read_datasets(tmp_path)[0], backbone, NoCache(), False, NoProgress())
    assert sum(passes) < 75 + CPU_PICTURES and set(passes) == {CPU_PICTURES}


def test_the_rest_of_a_pass_is_filled_up_by_nothing_on_other_devices(vit):
    class Elsewhere:
        """A backbone on a device that takes many pictures at once."""

        embedding_device, chunk = torch.device("meta"), 256

    asked: list[int] = []

    def extractor(batch: torch.Tensor) -> torch.Tensor:
        asked.append(len(batch))
        return torch.zeros(len(batch), 4)

    some = {str(i): np.zeros((3, 4, 4), np.uint8) for i in range(70)}
    features._features(Elsewhere(), some, extractor)  # type: ignore[arg-type]
    features._features(Elsewhere(), {"0": some["0"]}, extractor)  # type: ignore[arg-type]
    assert asked == [70, 2]


@pytest.mark.parametrize("cache", ["none", "full disk", "kept"])
def test_pictures_beyond_memory_come_from_the_cache_or_are_decoded_again(
    drawn, vit, decoded, monkeypatch, cache, caplog
):
    size = 3 * vit.preprocessing.size[0] * vit.preprocessing.size[1]
    monkeypatch.setattr(pictures, "IN_MEMORY", 5 * size)
    if cache == "full disk":
        monkeypatch.setattr(store.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": store.ROOM}))
    kept = NoCache() if cache == "none" else FeatureCache()
    seen = embed(vit, files(drawn), kept, NoProgress(), decode=True)
    assert len(decoded) == 12
    expected = plain(files(drawn), vit)
    for _ in range(2):
        decoded.clear()
        assert torch.equal(seen.pictures[torch.arange(11, -1, -1)], expected.flip(0))
        assert len(decoded) == (0 if cache == "kept" else 7)
        assert len(seen.pictures.gallery._held) == 5
    assert ("nearly full" in caplog.text) == (cache == "full disk")


def test_without_a_cache_nothing_is_written(drawn, vit, tmp_path):
    embed(vit, files(drawn), NoCache(), NoProgress(), decode=True)
    assert not (tmp_path / "cache").exists()


def test_a_picture_that_changes_meanwhile_is_an_error(photos, vit, monkeypatch):
    seen = embed(vit, files(photos), NoCache(), NoProgress())
    path = sorted(photos.glob("*/*"))[0]
    path.write_bytes(sorted(photos.glob("*/*"))[5].read_bytes())
    with pytest.raises(FewshotError, match="has changed since"):
        seen.pictures[torch.tensor([0])]
    path.unlink()
    with pytest.raises(FewshotError, match="could be read a moment ago"):
        seen.pictures[torch.tensor([0])]


def test_copies_and_unreadable_files_are_told_apart(photos, vit, passes):
    paths = sorted((photos / "cat").iterdir())
    paths[1].write_bytes(paths[0].read_bytes())
    paths[2].write_bytes(b"no picture")
    seen = embed(vit, files(photos), FeatureCache(), NoProgress())
    assert len(seen.readable) == 11 and list(seen.problems) == [2]
    assert seen.contents[0] == seen.contents[1] and torch.equal(seen.features[0], seen.features[1])
    assert sum(passes) == vit.chunk


def test_what_is_seen_comes_before_all_is_read(tmp_path, vit, opened):
    write_folder(tmp_path, ("cat", "key", "fish"), 50, seed=0, size=32)
    stored = files(tmp_path)
    stream = features_by_each(vit, stored, NoCache(), NoProgress(), {"": vit.frozen_features})
    next(stream)
    assert len(opened) <= 2 * features.DECODE_AT_ONCE < len(stored)
    stream.close()


def test_an_interrupted_run_has_kept_what_it_saw(drawn, vit, passes):
    cache = FeatureCache()
    stream = features_by_each(vit, files(drawn) * 8, cache, NoProgress(), {"": vit.frozen_features})
    next(stream)
    stream.close()
    passes.clear()
    embed(vit, files(drawn), cache, NoProgress())
    assert not passes


def test_a_fifo_is_no_picture_and_stops_nobody(tmp_path, vit):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no fifos here")
    os.mkfifo(tmp_path / "a.jpg")
    seen = embed(vit, [StoredFile(tmp_path / "a.jpg")], NoCache(), NoProgress())
    assert "not a regular file" in seen.problems[0].reason


def test_another_pillow_gives_other_features(vit, monkeypatch):
    before = features.model_key(vit, "")
    monkeypatch.setattr("fewshot_cli.images.prefetch.version", lambda package: "0.0.1")
    assert features.model_key(vit, "") != before
