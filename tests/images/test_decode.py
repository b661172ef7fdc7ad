"""Every kind of file gives its picture upright in RGB, or an ImageError that says what to do."""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images import identify
from fewshot_cli.images.decode import decode, load, load_array, load_bytes
from fewshot_cli.images.drawing import draw
from fewshot_cli.images.image_bytes import content_hash
from fewshot_cli.images.image_error import ImageError

SEEN = Preprocessing((40, 48), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def picture() -> Image.Image:
    return draw("house", seed=1, size=96).crop((0, 0, 96, 64))


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and has nothing behind it."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"\0"), b"IEND"]
    framed = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


# --- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp", "jpg", "jp2", "avif", "gif"])
def test_formats(picture, tmp_path, suffix):
    if "." + suffix not in Image.registered_extensions():
        pytest.skip(f"this Pillow has no {suffix}")
    path = saved(picture, tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    lossy = {"jpg": 6, "jp2": 6, "avif": 8, "gif": 8}.get(suffix, 0)
    assert np.abs(pixels(decode(path)) - pixels(picture)).mean() <= lossy


def test_a_wrong_suffix_does_not_matter(picture, tmp_path):
    path = saved(picture, tmp_path / "a.jpg", format="PNG")
    assert (pixels(decode(path)) == pixels(picture)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_all_eight_orientations_are_turned_upright(picture, tmp_path, orientation, format_):
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's transpose codes
    stored = picture if undo is None else picture.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(stored, tmp_path / "a", format=format_, exif=exif)
    assert (pixels(decode(path)) == pixels(picture)).all()
    assert (pixels(decode(path)) == pixels(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))).all()


@pytest.mark.slow
def test_a_draft_of_a_turned_jpeg_is_upright_and_large_enough(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(draw("boat", 1, 512).resize((1600, 800)), tmp_path / "a.jpg", exif=exif)
    assert decode(path).size == (800, 1600)
    assert decode(path, at_least=(400, 150)).size == (200, 400)
    assert decode(path, at_least=(401, 150)).size == (400, 800)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's; that the picture comes is what counts
def test_a_broken_exif_block_does_not_cost_the_picture(picture, tmp_path):
    path = saved(picture, tmp_path / "a.jpg", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert decode(path).size == picture.size


def test_cmyk_as_adobe_stores_it(picture, tmp_path):
    path = saved(picture.convert("CMYK"), tmp_path / "a.jpg", quality=95)
    assert Image.open(path).mode == "CMYK"
    assert np.abs(pixels(decode(path)) - pixels(picture)).mean() < 6


def test_what_is_transparent_becomes_white(tmp_path):
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 128))
    rgba.putpixel((1, 0), (9, 9, 9, 0))
    assert pixels(decode(saved(rgba, tmp_path / "a.png"))).tolist() == [[[227, 127, 127], [255, 255, 255]]]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert pixels(decode(saved(grey, tmp_path / "b.png"))).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_white(tmp_path, mode):
    image = Image.new(mode, (2, 1), 0 if mode != "RGB" else (0, 0, 0))
    if mode == "P":
        image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1 if mode != "RGB" else (1, 1, 1))
    path = saved(image, tmp_path / "a.png", transparency=0 if mode != "RGB" else (0, 0, 0))
    kept = {"P": [40, 50, 60], "L": [1, 1, 1], "RGB": [1, 1, 1]}[mode]
    assert pixels(decode(path)).tolist() == [[[255, 255, 255], kept]]


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_few_colours(picture, tmp_path, mode):
    path = saved(picture.convert(mode), tmp_path / "a.png")
    assert (pixels(decode(path)) == pixels(picture.convert(mode).convert("RGB"))).all()


def test_lab(tmp_path):
    path = saved(Image.new("LAB", (1, 1), (255, 128, 128)), tmp_path / "a.tif")
    assert pixels(decode(path)).min() > 250


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    path = saved(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert pixels(decode(path))[0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 65535]], dtype=np.int32), [0, 255]),
        (np.array([[0, 200]], dtype=np.int32), [0, 200]),
        (np.array([[-5, 95]], dtype=np.int32), [0, 255]),
        (np.array([[0, 0.5, 1]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], dtype=np.float32), [0, 100, 255]),
        (np.array([[-1, np.nan, 1]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 1e6]], dtype=np.float32), [0, 255]),
        (np.array([[-3, -3]], dtype=np.float32), [0, 0]),
    ],
)
def test_deep_greys_get_a_sensible_white(tmp_path, values, expected):
    path = saved(Image.fromarray(values), tmp_path / "a.tif")
    assert pixels(decode(path))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("format_", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_of_several_frames(tmp_path, format_):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    path = saved(frames[0], tmp_path / "a", format=format_, save_all=True, append_images=frames[1:])
    assert pixels(decode(path))[0, 0, 0] >= 250
    assert pixels(decode(path))[0, 0, 2] <= 5


def test_heic(picture, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(picture).save(path, quality=90)
    assert np.abs(pixels(decode(path)) - pixels(picture)).mean() < 6
    assert "HEIF" not in Image.OPEN  # reading one leaves Pillow as it was


def test_heic_without_its_reader_says_how_to_get_it(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(identify, "import_module", missing)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(ImageError, match="HEIC") as caught:
        decode(tmp_path / "a.heic")
    assert "fewshot-cli[heic]" in caught.value.remedy


# --- bytes and arrays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp", "jpg", "jp2", "avif", "gif"])
def test_the_bytes_of_a_file_give_the_pixels_of_the_file(tmp_path, suffix):
    if "." + suffix not in Image.registered_extensions():
        pytest.skip(f"this Pillow has no {suffix}")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(draw("boat", 1, 300).crop((0, 0, 300, 200)), tmp_path / f"a.{suffix}", exif=exif)
    pixels_of_file = load(path, SEEN)
    assert pixels_of_file.shape == (3, 40, 48)
    assert np.array_equal(load_bytes(path.read_bytes(), SEEN), pixels_of_file)


def test_heic_bytes(picture, tmp_path):
    pytest.importorskip("pillow_heif").from_pillow(picture).save(tmp_path / "a.heic")
    assert np.array_equal(load_bytes((tmp_path / "a.heic").read_bytes(), SEEN), load(tmp_path / "a.heic", SEEN))


def test_an_array_gives_the_pixels_of_a_file_with_these_colours(picture, tmp_path):
    expected = load(saved(picture, tmp_path / "a.png"), SEEN)
    array = np.asarray(picture)
    assert np.array_equal(load_array(array, SEEN), expected)
    assert np.array_equal(load_array(np.asfortranarray(array), SEEN), expected)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.uint16),
        np.zeros((4, 4, 3)),
        np.zeros((0, 4, 3), dtype=np.uint8),
        np.zeros((2, 4, 4, 3), dtype=np.uint8),
    ],
)
def test_an_array_of_another_kind_is_refused(array):
    with pytest.raises(ImageError, match="not RGB in 8 bits") as caught:
        load_array(array, SEEN)
    assert caught.value.kind == "not-an-image"


def test_an_array_as_large_as_no_photo_is_refused():
    one = np.zeros((1, 1, 1), dtype=np.uint8)
    with pytest.raises(ImageError, match="too large: 20000 x 30000 pixels"):
        load_array(np.broadcast_to(one, (30000, 20000, 3)), SEEN)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty-file"),
        (b"hello", "not-an-image"),
        (png_header(60000, 60000), "too-large"),
        (b"\xff\xd8\xff\xe0" * 9, "truncated"),
    ],
)
def test_bytes_that_give_no_picture(content, kind):
    with pytest.raises(ImageError) as caught:
        load_bytes(content, SEEN)
    assert caught.value.kind == kind


def test_bytes_are_never_looked_up_in_a_file(picture, tmp_path, monkeypatch):
    """Pillow maps grey pixels from a file of the image's name, where it has one: that must not be another file."""
    monkeypatch.chdir(tmp_path)
    content = saved(picture.convert("L"), tmp_path / "a.pgm").read_bytes()
    expected = load(tmp_path / "a.pgm", SEEN)
    with Image.open(tmp_path / "a.pgm") as mapped:
        mapped.load()
        assert mapped.map is not None
    for name in ("a.pgm", "None", "bytes"):
        (tmp_path / name).write_bytes(bytes(len(content)))
    assert np.array_equal(load_bytes(content, SEEN), expected)


# --- files that give no picture ------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"hello", b"BMW is a car\n" * 9, b"P3 what?", b"%PDF-1.4", b"<svg/>", b"\0" * 99])
def test_not_an_image(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ImageError, match="not an image") as caught:
        decode(tmp_path / "a.jpg")
    assert caught.value.kind == "not-an-image"
    assert caught.value.remedy


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated(tmp_path, format_, share):
    buffer = io.BytesIO()
    draw("cat", 0, 200).save(buffer, format_)
    content = buffer.getvalue()
    (tmp_path / "a").write_bytes(content[: max(20, int(share * len(content)))])
    with pytest.raises(ImageError) as caught:
        decode(tmp_path / "a", at_least=(50, 50))
    assert caught.value.kind == "truncated"


def test_empty_missing_folder(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ImageError, match=r"empty \(0 bytes\)"):
        decode(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match="a folder"):
        decode(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        decode(tmp_path / "a.jpg")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_permission_denied(picture, tmp_path):
    path = saved(picture, tmp_path / "a.jpg")
    path.chmod(0)
    for read in (decode, content_hash):
        with pytest.raises(ImageError, match="permission denied"):
            read(path)


def test_a_bomb_is_refused_by_its_header_and_large_photos_are_not_warned_about(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_header(60000, 60000))
    (tmp_path / "large.png").write_bytes(png_header(16320, 12240))  # a phone with 200 megapixels; here without pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="too large: 60000 x 60000 pixels") as caught:
            decode(tmp_path / "bomb.png")
        assert "200 megapixels" in caught.value.remedy
        with identify.opened(tmp_path / "large.png") as image:
            assert image.size == (16320, 12240)


def test_content_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert content_hash(tmp_path / "a").startswith("ba7816bf8f01cfea")
    with pytest.raises(ImageError, match="no such file"):
        content_hash(tmp_path / "b")
