"""What `prepare` and `load` give is what timm's evaluation transform gives."""

from pathlib import Path

import numpy as np
import pytest
import timm.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewshot_cli.engine.data.preprocessing import Preprocessing
from fewshot_cli.images.decode import decode, load
from fewshot_cli.images.drawing import draw
from fewshot_cli.images.resize import prepare

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SMOOTH = ["bilinear", "bicubic", "lanczos", "hamming"]


def preprocessing_of(size=(224, 224), crop_fraction=0.875, crop_mode="center", interpolation="bicubic"):
    return Preprocessing(size, crop_fraction, crop_mode, interpolation, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def timm_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    transform = timm.data.create_transform(
        (3, *preprocessing.size),
        is_training=False,
        crop_pct=preprocessing.crop_fraction,
        crop_mode=preprocessing.crop_mode,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        normalize=False,
    )
    return np.asarray(transform(image)).astype(int)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(16, 300),
    height=st.integers(16, 300),
    size=st.sampled_from([(64, 64), (112, 112), (224, 224), (96, 64), (50, 75)]),
    crop_fraction=st.sampled_from([0.875, 0.9, 0.95, 1.0]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(["nearest", "box", *SMOOTH]),
    seed=st.integers(0, 2**32 - 1),
)
def test_prepare_is_timms_transform(width, height, size, crop_fraction, crop_mode, interpolation, seed):
    """On pure noise, the hardest picture; without black and white, beyond which overshooting filters are cut off."""
    noise = np.random.default_rng(seed).integers(80, 176, (height, width, 3), dtype=np.uint8)
    preprocessing = preprocessing_of(size, crop_fraction, crop_mode, interpolation)
    ours = prepare(Image.fromarray(noise), preprocessing)
    change = np.abs(ours - timm_pixels(Image.fromarray(noise), preprocessing))
    assert ours.shape == (3, *size)
    assert ours.dtype == np.uint8
    assert ours.flags.c_contiguous
    # Pillow rounds to whole grey levels between its two passes, and may take them in the other order.
    assert change.max() <= (2 if interpolation in SMOOTH else 0)
    assert change.mean() <= 0.35


@pytest.mark.parametrize("interpolation", SMOOTH)
@pytest.mark.parametrize("size", [(500, 375), (375, 500), (128, 128), (90, 200)])
def test_prepare_is_timms_transform_on_pictures(interpolation, size):
    picture = draw("fish", 3, 400).resize(size)
    for crop_mode in ("center", "squash", "border"):
        preprocessing = preprocessing_of(crop_mode=crop_mode, interpolation=interpolation)
        change = np.abs(prepare(picture, preprocessing) - timm_pixels(picture, preprocessing))
        assert change.mean() < 0.25
        assert (change > 1).mean() < 0.001


def test_a_strip_still_gives_a_picture():
    for crop_mode in ("center", "squash", "border"):
        assert prepare(Image.new("RGB", (2000, 1)), preprocessing_of(crop_mode=crop_mode)).shape == (3, 224, 224)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4000, 3000), (2999, 4003), (1601, 1203), (900, 700)])
@pytest.mark.parametrize("name", ["boat", "snail"])
def test_a_large_jpeg_read_at_a_fraction_is_the_same_to_the_eye(tmp_path, size, name):
    """Mean change of at most 1 grey level against the full decode; the drawing is crisp, so harder than a photo."""
    draw(name, 5, 700).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=92)
    whole = Image.open(tmp_path / "a.jpg").convert("RGB")
    for crop_fraction, side in ((0.875, 224), (1.0, 224), (1.0, 128), (0.95, 300)):
        preprocessing = preprocessing_of((side, side), crop_fraction)
        change = np.abs(load(tmp_path / "a.jpg", preprocessing) - timm_pixels(whole, preprocessing))
        assert change.mean() <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_fraction_lands_where_the_turned_whole_does(tmp_path, orientation):
    """Sides that 8 does not divide leave a piece of a pixel over, on a side that depends on the turn."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    draw("snail", 5, 700).resize((2001, 1507), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=92, exif=exif)
    preprocessing = preprocessing_of((128, 128), 0.9)
    change = np.abs(load(tmp_path / "a.jpg", preprocessing) - timm_pixels(decode(tmp_path / "a.jpg"), preprocessing))
    assert 0 < change.mean() <= 0.8


@pytest.mark.slow
def test_load_draws_on_a_fraction_of_a_large_jpeg(tmp_path):
    draw("boat", 5, 800).resize((4000, 3000)).save(tmp_path / "a.jpg")
    assert decode(tmp_path / "a.jpg", at_least=(359, 359)).size == (500, 375)


def test_real_photos():
    files = sorted((SHARED / "data" / "pacs" / "photo").glob("*/*.jpg"))[::40]
    if not files:
        pytest.skip("needs ../shared/data")
    for path in files:
        preprocessing = preprocessing_of()
        change = np.abs(load(path, preprocessing) - timm_pixels(Image.open(path).convert("RGB"), preprocessing))
        assert change.mean() < 0.25
        assert (change > 1).mean() < 0.001
