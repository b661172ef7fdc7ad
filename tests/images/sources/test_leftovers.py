"""What lies in folders, zips and lists of pictures and is none, and data sets as drives and spreadsheets leave them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewshot_cli.errors import FewshotError
from fewshot_cli.images.decode import decode, upright_rgb
from fewshot_cli.images.drawing import CLASSES, draw
from fewshot_cli.images.identify import opened
from fewshot_cli.images.image_error import ImageError
from fewshot_cli.images.quality import near_duplicates as copies_module
from fewshot_cli.images.quality.checks import checkup
from fewshot_cli.images.quality.near_duplicates import SignatureIndex, copies, signature
from fewshot_cli.images.sources.class_folders import read_folder
from fewshot_cli.images.sources.dataset import read_datasets
from fewshot_cli.images.sources.labelled import read_labelled
from fewshot_cli.images.sources.leftovers import HIDDEN, LEFTOVERS, OURS, is_our_name, left_over, passed_over

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"
LEFT = (
    *("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", ".DS_Store", "Thumbs.db", "__MACOSX/._a.jpg", "#recycle/b.jpg"),
    *("$RECYCLE.BIN/x.jpg", "System Volume Information/y.jpg", "lost+found/z.jpg", ".ipynb_checkpoints/a.jpg"),
    *("a.jpg.part", "a.xmp", "old.jpg~", ".picasaoriginals/a.jpg"),
)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), "red").save(path, "PNG")
    return path


def case(name: str) -> Path:
    if not CASES.is_dir():
        pytest.skip("needs ../shared/cases")
    return CASES / name


@pytest.mark.parametrize("where", ["", "cat/"])
def test_what_systems_leave_is_no_class_and_no_picture(tmp_path, where):
    for name in ("cat/1.png", "dog/1.png", *(where + left for left in LEFT)):
        picture(tmp_path / name)
    folder = read_folder(tmp_path)
    assert folder.classes == ("cat", "dog") and len(folder.items) == 2
    assert sum(folder.left_out.values()) == len(LEFT)


def test_it_is_no_class_and_no_picture_in_a_zip_either(tmp_path):
    content = picture(tmp_path / "x.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("cat/1.png", "dog/1.png", *LEFT, *(f"cat/{left}" for left in LEFT)):
            archive.writestr(name, content)
    (dataset,) = read_datasets(tmp_path / "a.zip")
    assert dataset.classes == ("cat", "dog") and len(dataset.samples) == 2


@pytest.mark.parametrize(
    "name",
    ["cat", "DSC_001.JPG", "train.png", "lost and found", "a.tiff", "icon", "snapshot", "recycled", "o", "Originals"],
)
def test_names_of_classes_and_pictures_are_none(name):
    assert passed_over(name) is None


def test_a_leftover_is_known_by_name_whatever_its_case():
    for name, kind in [("@EADIR", "@eaDir"), ("._1.jpg", "._*"), ("MVI_01.THM", "*.thm"), (".cache", HIDDEN)]:
        assert passed_over(name) == kind
    assert passed_over("Icon\r") and left_over(".cache") is None
    names = [name for names in LEFTOVERS.values() for name in names]
    assert all(left_over(name.replace("*", "x")) for name in names)
    assert len({name.casefold() for name in names}) == len(names)


def test_files_that_are_signed_are_ours_whatever_they_are_called(tmp_path, vit, random_bank):
    """An output may be called as one likes, and a picture too: one that says so by its name is looked at."""
    for name in ("cat/1.png", "dog/1.png"):
        picture(tmp_path / name)
    random_bank(tmp_path / "cat" / "mine", vit)
    (tmp_path / "cat" / "notes").write_text("of cats")
    folder = read_folder(tmp_path)
    assert [item.path.name for item in folder.items] == ["1.png", "notes", "1.png"]
    assert folder.left_out == {OURS: 1}
    assert is_our_name("x.partial-3") and not is_our_name("x.partially") and not is_our_name("x.png")
    random_bank(tmp_path / "cat" / "mine.png", vit)
    assert len(read_folder(tmp_path).items) == 4


def test_files_of_ours_are_no_images_and_a_folder_of_them_is_no_class(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        picture(tmp_path / name)
    (tmp_path / "models").mkdir()
    for name in ("x.fewshot", "x.fewshot.run.json", "my.bank", "my.bank.log.jsonl", "r.html", "answers.csv"):
        (tmp_path / "models" / name).write_text("x")
        (tmp_path / "cat" / name).write_text("x")
    folder = read_folder(tmp_path)
    assert folder.classes == ("cat", "dog") and [item.path.name for item in folder.items] == ["1.png", "1.png"]


# --- zips as folders -------------------------------------------------------------------------------------------------


def test_a_class_in_a_zip_may_have_a_folder_and_pictures_beside_classes_have_no_label():
    for name in ("zip_class_with_subfolder.zip", "zip_stray_cover_in_top_folder.zip", "zip_synology_eaDir.zip"):
        (dataset,) = read_datasets(case(name))
        assert dataset.classes == ("dolphin", "sunflower", "watch"), name
        assert len(dataset.samples) == 18, name


def test_a_zip_of_parts_is_refused_as_a_folder_of_parts_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
            archive.writestr(f"data/{name}/1.png", b"x")
    with pytest.raises(FewshotError, match=r"parts of a data set \(train, val\), not classes"):
        read_datasets(tmp_path / "a.zip")
    with pytest.raises(FewshotError, match="parts of a data set"):
        read_datasets(case("zip_train_val.zip"))


# --- lists -----------------------------------------------------------------------------------------------------------


def listed(path: Path, text: str, name: str = "list.csv") -> dict[str, list[str]]:
    (path / name).write_text(text, encoding="utf-8", newline="")
    (dataset,) = read_datasets(path / name)
    found: dict[str, list[str]] = {label: [] for label in dataset.classes}
    for sample in dataset.samples:
        found[dataset.classes[sample.label]].append(Path(sample.stored.name).relative_to(path).as_posix())
    return found


EXPECTED = {"cat": ["a/1.png"], "dog": ["b/1.png"]}


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na/1.png,cat\nb/1.png,dog\n",
        "\ufeffpath;label\r\na/1.png;cat\r\nb/1.png;dog\r\n",
        "path\tlabel\na/1.png\tcat\nb/1.png\tdog\n",
        "sep=;\npath;label\na/1.png;cat\nb/1.png;dog\n",
        '"sep=\t"\r\npath\tlabel\r\na/1.png\tcat\r\nb/1.png\tdog\r\n',
        "path,label\na\\1.png,cat\nb\\1.png,dog\n",
        "path,label\na/1.png,cat,\nb/1.png,dog,,\n",
    ],
)
def test_lists_as_spreadsheets_write_them(tmp_path, text):
    for name in ("a/1.png", "b/1.png"):
        picture(tmp_path / name)
    assert listed(tmp_path, text) == EXPECTED


def test_a_list_of_tabs_may_say_so_in_its_name(tmp_path):
    assert listed(tmp_path, "path\tlabel\na/1.png\tcat\nb/1.png\tdog\n", "list.tsv") == EXPECTED


def test_a_row_longer_than_the_header_is_refused(tmp_path):
    with pytest.raises(FewshotError, match=r"line 3: 3 cells, and the header names 2"):
        listed(tmp_path, "path,label\na/1.png,cat\nb/1.png,animal, sea\n")
    with pytest.raises(FewshotError, match="line 2: 3 cells"):
        read_datasets(case("csv_unquoted_comma_merges_labels.csv"))


@pytest.mark.parametrize("label", ["NaN", "Infinity", "null", "true", "[]"])
def test_a_label_that_is_none_is_refused(tmp_path, label):
    with pytest.raises(FewshotError, match="line 2: the label is"):
        listed(tmp_path, f'{{"path": "a", "label": "x"}}\n{{"path": "b", "label": {label}}}\n', "list.jsonl")


@given(st.sampled_from(["csv", "jsonl", "tsv"]), st.text(max_size=80), st.text(max_size=80))
def test_any_text_is_a_list_or_is_refused(tmp_path_factory, kind, header, body):
    path = tmp_path_factory.getbasetemp() / f"any.{kind}"
    path.write_text(f"{header}\n{body}", encoding="utf-8", errors="replace")
    try:
        (dataset,) = read_datasets(path)
    except FewshotError as error:
        assert error.problem and error.hint
    else:
        assert len(dataset.classes) > 1 and all(dataset.classes)


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_greys_in_16_bits_are_as_bright_as_their_own_range(tmp_path, bits):
    ramp = np.linspace(0, 2**bits - 1, 100 * 100).reshape(100, 100)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "a.png")
    found = np.asarray(decode(tmp_path / "a.png").convert("L"), dtype=float)
    assert np.abs(found - ramp * 255 / (2**bits - 1)).max() <= 1


def test_colours_in_16_bits_are_not_black_either(tmp_path):
    path = CASES / "png_gray16_holding_12_bits.png"
    assert not path.exists() or np.asarray(decode(path)).max() > 200
    content = _png_of_16_bits(np.full((8, 8, 3), (4095, 2048, 0)))
    (tmp_path / "a.png").write_bytes(content)
    assert np.asarray(decode(tmp_path / "a.png"))[0, 0].tolist() == [255, 128, 0]  # 2048 of 4095, from all 16 bits
    (tmp_path / "b.png").write_bytes(_png_of_16_bits(np.full((8, 8, 3), (65535, 4095, 0))))
    assert np.asarray(decode(tmp_path / "b.png"))[0, 0].tolist() == [255, 15, 0]


def _png_of_16_bits(colours: np.ndarray) -> bytes:
    """A PNG of colours in 16 bits, which Pillow reads and doesn't write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, deep = colours.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if deep == 3 else 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def greys(values: np.ndarray, path: Path) -> np.ndarray:
    Image.fromarray(values).save(path)
    return np.asarray(decode(path).convert("L")).astype(int)


def test_sixteen_bits_that_use_their_range_stay_as_they_are(tmp_path):
    """Also where a few bright pixels alone say so: stars, or a reflection."""
    values = np.random.default_rng(0).integers(0, 40_000, (200, 200)).astype(np.uint16)
    values[0, 0] = 65535
    expected = np.rint(values.astype(np.float32) * (255 / 65535)).astype(int)
    assert (greys(values, tmp_path / "a.png") == expected).all()
    values = np.clip(values, 0, 16_000)
    values[0, 0] = 20_000
    assert greys(values, tmp_path / "b.tif").max() == round(20_000 / 257)


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize(
    ("low", "high", "type_"),
    [(28_000, 31_000, np.uint16), (290, 310, np.float32), (-1000, 3000, np.float32), (0, 3.7, np.float32)],
    ids=["thermal", "kelvin", "x-ray", "light"],
)
def test_a_small_part_of_a_range_becomes_all_of_it(tmp_path, low, high, type_, kind):
    if kind == "png" and type_ == np.float32:
        pytest.skip("a PNG holds no floats")
    ramp = np.linspace(low, high, 10_000).reshape(100, 100)
    dead = ramp.astype(type_)
    dead[0, :3], dead[-1, -1] = 0, high  # pixels that don't work
    found = greys(dead, tmp_path / f"a.{kind}")
    assert np.abs(found - (ramp - low) / (high - low) * 255)[1:].max() <= 2


def test_what_is_no_number_is_black_and_says_nothing_of_the_range(tmp_path):
    values = np.linspace(290, 310, 10_000, dtype=np.float32).reshape(100, 100)
    values[:10] = np.nan
    found = greys(values, tmp_path / "a.tif")
    assert (found[:10] == 0).all() and found[10, 0] == 0 and found[-1, -1] == 255
    assert (greys(np.full((8, 8), np.nan, dtype=np.float32), tmp_path / "b.tif") == 0).all()


def test_pictures_of_one_value_are_not_stretched(tmp_path):
    assert (greys(np.full((8, 8), 65535, dtype=np.uint16), tmp_path / "a.png") == 255).all()
    assert (greys(np.full((8, 8), 32768, dtype=np.uint16), tmp_path / "b.png") == 128).all()


def test_sixteen_bits_where_zero_is_white(tmp_path):
    """X-rays are often kept so; Pillow heeds it up to 8 bits."""
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for compression in (None, "tiff_lzw"):
        Image.fromarray(ramp).save(tmp_path / "a.tif", tiffinfo={262: 0}, compression=compression)
        found = np.asarray(decode(tmp_path / "a.tif").convert("L"))
        assert found.ravel().tolist() == list(range(255, -1, -1))


@given(bits=st.sampled_from([8, 10, 12, 14, 16]), seed=st.integers(0, 99), alpha=st.booleans(), bright=st.booleans())
def test_colours_in_16_bits_are_scaled_together(bits, seed, alpha, bright):
    """What uses its range is read as ever, bit for bit; what doesn't keeps its hue and all of its shades."""
    top = 2**bits - 1
    values = np.random.default_rng(seed).integers(top // 2 if bright else 0, top + 1, (9, 11, 4 if alpha else 3))
    values[0, 0, 0] = top
    if alpha:
        values[..., 3] = 65535
    with opened(_png_of_16_bits(values)) as image:
        draft = upright_rgb(image)
    found = np.asarray(draft.image).astype(int)
    if bits == 16:
        assert (found == values[..., :3] >> 8).all() and draft.levels is None
    else:
        assert np.abs(found - values[..., :3] * 255 / top).max() <= 0.5 + 1e-3


def test_one_value_just_over_white_leaves_a_picture_as_it_is(tmp_path):
    values = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    Image.fromarray(values).save(tmp_path / "a.tif")
    values[0, 0] = 7.0
    Image.fromarray(values).save(tmp_path / "b.tif")
    one, other = (np.asarray(decode(tmp_path / name)).astype(int) for name in ("a.tif", "b.tif"))
    assert np.array_equal(one.reshape(-1)[3:], other.reshape(-1)[3:]) and other[0, 0].tolist() == [255] * 3
    assert np.asarray(decode(case("tiff_gray_float32_max_1.0001.tif"))).max() == 255


def test_a_whole_picture_of_a_kind_that_is_not_read_is_not_called_damaged():
    with pytest.raises(ImageError) as caught:
        decode(case("tiff_rgb_float32.tif"))
    assert caught.value.kind == "not-read" and "isn't read" in caught.value.reason
    assert "PNG or JPEG" in caught.value.remedy


def test_the_raw_file_of_a_camera_is_not_read_as_its_thumbnail(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.tif", tiffinfo={254: 1})
    with pytest.raises(ImageError, match="raw file") as caught:
        decode(tmp_path / "a.tif")
    assert caught.value.kind == "not-read"


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_the_doctor_reads_zips_and_lists_as_adapt_and_eval_do(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        picture(tmp_path / name)
    (tmp_path / "dog" / "2.png").write_bytes(b"no")
    (tmp_path / "list.csv").write_text("path,label\ncat/1.png,cat\ndog/1.png,dog\ndog/2.png,dog\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted(tmp_path.rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path))
    expected = sorted(finding.kind for finding in checkup(read_labelled(tmp_path, allow_empty=True)))
    assert {"cross-class-copy", "not-an-image", "single-image"} <= set(expected)
    for name in ("a.zip", "list.csv"):
        assert sorted(finding.kind for finding in checkup(read_labelled(tmp_path / name))) == expected


def test_the_doctor_names_what_it_assumed_of_values(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        values = np.random.default_rng(len(name)).integers(0, 4096, (64, 64)).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / name / f"{name}.png")
    kinds = [finding.kind for finding in checkup(read_labelled(tmp_path, allow_empty=True))]
    assert kinds.count("rescaled") == 2


def test_the_doctor_finds_names_that_adapt_refuses(tmp_path):
    picture(tmp_path / "cat" / "1.png")
    try:
        picture(tmp_path / b"d\xffg".decode("utf-8", "surrogateescape") / "2.png")
    except OSError:
        pytest.skip("this file system takes Unicode only")
    found = [finding for finding in checkup(read_labelled(tmp_path, allow_empty=True)) if finding.kind == "class-name"]
    assert [finding.severity for finding in found] == ["error"]


def test_half_a_million_looks_fit_into_memory():
    """What stays in memory of each picture is its hash and its colour: 20 bytes."""
    one = signature(Image.new("RGB", (40, 40), "red"))
    with SignatureIndex() as signatures:
        for _ in range(100):
            signatures.add(one)
        kept = (signatures._hashes, signatures._colours)
        assert sum(len(numbers) * numbers.itemsize for numbers in kept) == 100 * 20
    assert signatures._file.closed


def test_copies_are_found_however_many_are_compared_at_once(monkeypatch):
    """Blocks of any size give the pairs that all against all give."""
    pictures = [draw(label, seed, 64) for label in CLASSES[:4] for seed in range(6)]
    seen = [signature(one) for picture in pictures for one in (picture, picture.resize((40, 40)))]
    everything = copies(seen)
    assert set(everything) >= {(i, i + 1) for i in range(0, len(seen), 2)}
    for chunk, rows, across in ((1, 1, 1), (5, 4, 3), (7, 9, 64)):
        monkeypatch.setattr(copies_module, "CHUNK", chunk)
        monkeypatch.setattr(copies_module, "ROWS", rows)
        monkeypatch.setattr(copies_module, "ACROSS", across)
        assert copies(seen) == everything
