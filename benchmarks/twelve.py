"""Twelve source domains of what lies in ../shared/data, for benchmarks/long_run.py's ways that end in -twelve.

    python benchmarks/meta.py data && python benchmarks/twelve.py

They are the classes that the five of benchmarks/meta.py practise on, and no others: Caltech-101 in three groups, the
alphabets of Omniglot by family, textures, photos and paintings, and three made of pictures that are there already,
which are no new data: photos as line drawings (nearer to the unseen domain sketch than anything of the five is),
paintings with their colours exchanged, things of Caltech-101 as negatives.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from meta import DOMAINS
from PIL import Image, ImageFilter, ImageOps

ANIMALS = (
    "Leopards ant beaver brontosaurus butterfly cougar_body cougar_face crab crayfish crocodile crocodile_head "
    "dragonfly elephant emu flamingo flamingo_head gerenuk hawksbill hedgehog ibis kangaroo lobster mayfly nautilus "
    "octopus okapi panda platypus rhino rooster sea_horse starfish stegosaurus tick trilobite"
)
MACHINES = (
    "Motorbikes accordion airplanes binocular camera cannon car_side cellphone euphonium gramophone grand_piano "
    "headphone inline_skate ketch laptop metronome stapler watch wheelchair wrench"
)
FAMILIES = {
    "brahmic": ("Balinese", "Sanskrit", "Tagalog"),
    "phoenician": ("Early_Aramaic", "Latin"),
    "kana": ("Japanese_(katakana)",),
}
TRAIN, TWELVE = DOMAINS / "train", DOMAINS / "twelve"
SIDE = 128  # of pictures that are made

Picture = Image.Image


def main() -> None:
    shutil.rmtree(TWELVE, ignore_errors=True)
    classes = sorted(path.name for path in (TRAIN / "caltech101").iterdir())
    groups = {"animals": ANIMALS.split(), "machines": MACHINES.split()}
    groups["things"] = [name for name in classes if name not in groups["animals"] + groups["machines"]]
    for group, names in groups.items():
        for name in names:
            link(TRAIN / "caltech101" / name, TWELVE / f"caltech101-{group}" / name)
    for family, alphabets in FAMILIES.items():
        for path in sorted((TRAIN / "omniglot").iterdir()):
            if path.name.startswith(tuple(f"{alphabet}-" for alphabet in alphabets)):
                link(path, TWELVE / f"omniglot-{family}" / path.name)
    for name in ("dtd", "photo", "art_painting"):
        link(TRAIN / name, TWELVE / name)
    for source, name, change in (
        (TRAIN / "photo", "photo-lines", lines),
        (TRAIN / "art_painting", "art_painting-colours", exchanged),
        (TWELVE / "caltech101-things", "caltech101-negatives", ImageOps.invert),
    ):
        made(source, TWELVE / name, change)
    for folder in sorted(TWELVE.iterdir()):
        print(f"{folder.name}: {len(list(folder.iterdir()))} classes")


def link(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(source.resolve())


def made(source: Path, folder: Path, change: Callable[[Picture], Picture]) -> None:
    """The classes of a source with every picture changed."""
    for path in sorted(path for of_class in source.iterdir() for path in of_class.iterdir()):
        out = folder / path.parent.name / f"{path.stem}.png"
        out.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((2 * SIDE, SIDE))
            change(small).save(out)


def lines(picture: Picture) -> Picture:
    """Dark lines on white where brightness changes."""
    edges = picture.convert("L").filter(ImageFilter.GaussianBlur(1)).filter(ImageFilter.FIND_EDGES)
    inside = ImageOps.crop(ImageOps.autocontrast(ImageOps.invert(edges), cutoff=(2, 40)), 2)
    return inside.convert("RGB")


def exchanged(picture: Picture) -> Picture:
    """Red for green, green for blue, blue for red."""
    red, green, blue = picture.split()
    return Image.merge("RGB", (green, blue, red))


if __name__ == "__main__":
    main()
