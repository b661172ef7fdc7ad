"""Planted problems are found, and nothing else is."""

import io
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot_cli.images import identify, image_bytes
from fewshot_cli.images.decode import decode
from fewshot_cli.images.drawing import CLASSES, draw, write_folder
from fewshot_cli.images.quality.checks import SEVERITIES, checkup
from fewshot_cli.images.quality.near_duplicates import copies, signature
from fewshot_cli.images.sources.labelled import read_labelled

SHARED = Path(__file__).resolve().parents[3].parent / "shared"


@pytest.fixture
def root(tmp_path) -> Path:
    write_folder(tmp_path, ["cat", "cup", "tree"], per_class=5, seed=0)
    return tmp_path


def kinds(root: Path) -> dict[str, str]:
    """The one finding of each file or class folder, by name."""
    found = checkup(read_labelled(root, allow_empty=True))
    assert len({finding.path for finding in found}) == len(found), found
    assert all(finding.problem and finding.remedy for finding in found)
    return {finding.path.name: finding.kind for finding in found}


@pytest.mark.slow
def test_clean_pictures_give_no_finding(tmp_path):
    write_folder(tmp_path, CLASSES, per_class=12, seed=1)
    assert checkup(read_labelled(tmp_path, allow_empty=True)) == []


@pytest.mark.slow
def test_progress_is_told(root):
    told = []
    checkup(read_labelled(root, allow_empty=True), lambda done, total: told.append((done, total)))
    assert told == [(i, 15) for i in range(1, 16)]


def test_every_file_is_read_once(root, monkeypatch):
    read: list[Path] = []
    original = image_bytes.stream

    def stream(source: Path | bytes):
        read.extend([source] if isinstance(source, Path) else [])
        return original(source)

    for module in (image_bytes, identify):
        monkeypatch.setattr(module, "stream", stream)
    monkeypatch.setattr(image_bytes, "content_hash", lambda path: pytest.fail(f"{path} is read to be hashed"))
    checkup(read_labelled(root))
    assert sorted(read) == sorted(root.glob("*/*"))


def test_files_that_give_no_picture(root):
    content = (root / "cat" / "cat-000.jpg").read_bytes()
    (root / "cat" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (root / "cat" / "empty.jpg").touch()
    (root / "cat" / "notes.txt").write_text("my cats")
    (root / "cat" / "broken.jpg").symlink_to(root / "nowhere")
    assert kinds(root) == {
        "cut.jpg": "truncated",
        "empty.jpg": "empty-file",
        "notes.txt": "not-an-image",
        "broken.jpg": "unreadable",
    }
    assert {finding.severity for finding in checkup(read_labelled(root, allow_empty=True))} == {"skipped"}


@pytest.mark.slow
def test_files_worth_a_note(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw("cat", 100).save(root / "cat" / "turned.jpg", exif=exif)
    draw("cat", 101).convert("CMYK").save(root / "cat" / "print.jpg")
    draw("cat", 110).convert("RGBA").save(root / "cat" / "opaque.png")
    clear = draw("cat", 102).convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save(root / "cat" / "clear.png")
    grey = np.asarray(draw("cat", 103).convert("L"))
    Image.fromarray(grey).save(root / "cat" / "grey.png")
    Image.fromarray(np.asarray(draw("cat", 104).convert("L")).astype(np.uint16) * 257).save(root / "cat" / "deep.png")
    draw("cat", 105).save(root / "cat" / "moving.gif", save_all=True, append_images=[draw("cat", 106)])
    draw("cat", 107, 31).save(root / "cat" / "small.png")
    draw("cat", 108).save(root / "cat" / "phone.jpg", format="MPO", save_all=True, append_images=[draw("cat", 109)])
    assert kinds(root) == {
        "turned.jpg": "rotated",
        "print.jpg": "cmyk",
        "clear.png": "alpha",
        "deep.png": "sixteen-bit",
        "moving.gif": "animated",
        "small.png": "tiny",
    }


def test_thin_classes_and_images_outside(root):
    (root / "nothing").mkdir()
    (root / "unreadable").mkdir()
    (root / "unreadable" / "notes.txt").write_text("later")
    (root / "lone").mkdir()
    draw("key", 1).save(root / "lone" / "key.jpg")
    draw("key", 2).save(root / "outside.jpg")
    assert kinds(root) == {
        "nothing": "empty-class",
        "unreadable": "empty-class",
        "notes.txt": "not-an-image",
        "outside.jpg": "outside",
        "lone": "single-image",
    }
    assert [finding.severity for finding in checkup(read_labelled(root, allow_empty=True))][:2] == ["error", "error"]


def test_copies_in_and_across_classes(root):
    original = root / "cat" / "cat-000.jpg"
    shutil.copy(original, root / "cat" / "again.jpg")
    shutil.copy(original, root / "cup" / "stray.jpg")
    decode(root / "cat" / "cat-001.jpg").save(root / "cat" / "z-weak.jpg", quality=50)
    decode(root / "cat" / "cat-002.jpg").resize((64, 64)).save(root / "tree" / "z-small.png")
    found = {finding.path.name: finding for finding in checkup(read_labelled(root, allow_empty=True))}
    assert {name: (finding.kind, finding.other.name) for name, finding in found.items()} == {
        "cat-000.jpg": ("duplicate", "again.jpg"),
        "stray.jpg": ("cross-class-copy", "again.jpg"),
        "z-weak.jpg": ("near-duplicate", "cat-001.jpg"),
        "z-small.png": ("cross-class-near-copy", "cat-002.jpg"),
    }
    assert found["stray.jpg"].severity == "error"
    assert "'cat'" in found["stray.jpg"].problem


def test_each_kind_has_a_severity():
    assert set(SEVERITIES.values()) == {"error", "skipped", "warning", "note"}


def test_blank_pictures_are_not_copies_of_each_other():
    assert (
        copies([signature(Image.new("RGB", (50, 50), colour)) for colour in ("white", "snow", "black", "white")]) == []
    )


def test_no_picture_and_one():
    assert copies([]) == []
    assert copies([signature(draw("cat", 0))]) == []


def recompressed(image: Image.Image, quality: int = 50) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def halved(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


def cropped(image: Image.Image) -> Image.Image:
    """Without 2 % of each side, more from the left than from the right, more from below than from above."""
    across, down = image.width / 50, image.height / 50
    return image.crop((round(0.8 * across), round(0.2 * down), round(image.width - 0.2 * across), round(49.2 * down)))


@pytest.mark.parametrize(("changed", "least"), [(recompressed, 0.98), (halved, 0.98), (cropped, 0.93)])
@pytest.mark.parametrize("name", ["pacs/photo", "pacs/sketch", "pacs/art_painting", "caltech101"])
def test_changed_copies_of_real_pictures_are_found(name, changed, least):
    files = sorted((SHARED / "data" / name).glob("*/*.jpg"))
    if not files:
        pytest.skip("needs ../shared/data")
    images = [decode(path) for path in files[:: len(files) // 60]]
    found = [copies([signature(image), signature(changed(image))]) == [(0, 1)] for image in images]
    assert np.mean(found) >= least


# Seen with the eye: the pairs in caltech101 are all copies (edited, enlarged, turned by a degree), the sketches are
# two guitars in the same pose.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"), [("pacs/photo", 0), ("pacs/sketch", 1), ("pacs/art_painting", 0), ("dtd10", 0), ("cifar10", 0)]
)
def test_different_real_pictures_are_not_copies(name, most):
    if not (SHARED / "data" / name).is_dir():
        pytest.skip("needs ../shared/data")
    found = Counter(finding.kind for finding in checkup(read_labelled(SHARED / "data" / name, allow_empty=True)))
    assert set(found) <= {"near-duplicate"}
    assert found.total() <= most


def test_the_images_package_needs_no_torch():
    names = ("decode", "drawing", "prefetch", "quality.checks", "sources.dataset")
    program = "".join(f"import fewshot_cli.images.{name}\n" for name in names)
    program += "import sys; print({'torch', 'timm'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
