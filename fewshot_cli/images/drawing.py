"""Small drawn pictures of known classes, made from a seed: for the demo, for tests, for whoever has no photos yet."""

import math
import random
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw

Point = tuple[float, float]

OVERSAMPLING = 3  # Pillow draws without smoothing, so draw large and shrink
PAPERS = ("#fdf6e3", "#eaf4f4", "#fff1e6", "#e8f0ff", "#f3e8ff", "#e9f7e4", "#fff8cc", "#f2efe9", "#dbe9ee", "#ffe9ec")
PAINTS = ("#d1495b", "#edae49", "#2a9d8f", "#3d6bb3", "#8f5fbf", "#e07a5f", "#5f9e3f", "#c05299", "#3a7ca5", "#b5651d")
INKS = ("#2b2d42", "#3d2b1f", "#1d3557", "#3a2e39", "#22333b")


class Pen:
    """Draws shapes given in the square -1 ... 1 (y down) onto a picture: moved, scaled, slanted and a little shaky."""

    def __init__(self, canvas: Image.Image, random_: random.Random) -> None:
        side = canvas.width
        self._draw = ImageDraw.Draw(canvas)
        self._random = random_
        self._scale = side * random_.uniform(0.27, 0.4)
        self._centre = tuple(side * random_.uniform(0.42, 0.58) for _ in range(2))
        self._angle = random_.gauss(0, 0.16)
        self._slant = random_.gauss(0, 0.1)
        self._stretch = random_.uniform(0.88, 1.14)
        self._mirror = random_.choice((-1, 1))
        self._width = max(2, round(side * random_.uniform(0.009, 0.022)))
        self.ink = random_.choice(INKS)
        self.paints = random_.sample(PAINTS, 4)

    def shape(self, points: Sequence[Point], fill: str | None) -> None:
        """A closed outline, filled unless `fill` is None."""
        placed = [self._placed(point) for point in points]
        if fill is not None:
            self._draw.polygon(placed, fill=fill)
        self._stroke([*placed, placed[0]])

    def line(self, points: Sequence[Point]) -> None:
        """An open line through the points."""
        self._stroke([self._placed(point) for point in points])

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: str | None, start: float = 0, end: float = 360
    ) -> None:
        """An ellipse around (x, y), or the slice of it between two angles in degrees, clockwise from the right."""
        self.shape(arc(x, y, rx, ry, start, end), fill)

    def dot(self, x: float, y: float, radius: float) -> None:
        """A filled spot of ink."""
        self._draw.polygon([self._placed(point) for point in arc(x, y, radius, radius)], fill=self.ink)

    def _stroke(self, placed: Sequence[Point]) -> None:
        self._draw.line(list(placed), fill=self.ink, width=self._width, joint="curve")

    def _placed(self, point: Point) -> Point:
        x, y = point[0] * self._mirror * self._stretch, point[1] / self._stretch
        x += self._slant * y
        across = x * math.cos(self._angle) - y * math.sin(self._angle)
        down = x * math.sin(self._angle) + y * math.cos(self._angle)
        shake = self._scale * 0.008
        return (
            self._centre[0] + self._scale * across + self._random.gauss(0, shake),
            self._centre[1] + self._scale * down + self._random.gauss(0, shake),
        )


def draw(name: str, seed: int, size: int = 128) -> Image.Image:
    """An RGB picture of one of `CLASSES`, `size` pixels square; the same for the same name, seed and size."""
    random_ = random.Random(f"{name}/{seed}")
    canvas = _paper(random_, size * OVERSAMPLING)
    DRAWINGS[name](Pen(canvas, random_), random_)
    picture = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    grain = np.random.default_rng(zlib.crc32(f"{name}/{seed}".encode()))
    picture = picture + grain.normal(0, random_.uniform(1, 5), (size, size, 1))
    return Image.fromarray(picture.round().clip(0, 255).astype(np.uint8))


def write_folder(root: Path, classes: Sequence[str], per_class: int, seed: int, size: int = 128) -> None:
    """Writes `per_class` drawn JPEGs of each class into `root/<class>/`; other seeds give other pictures."""
    for name in classes:
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            draw(name, seed * 100_003 + i, size).save(folder / f"{name}-{i:03d}.jpg", quality=92)


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, end: float = 360) -> list[Point]:
    """Points on an ellipse around (x, y), from one angle to another in degrees, clockwise from the right."""
    angles = (math.radians(start + (end - start) * i / 40) for i in range(41))
    return [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]


def _paper(random_: random.Random, side: int) -> Image.Image:
    """A sheet that fades from one pale colour to another, with a few blots, so that the background says nothing."""
    top, bottom = (np.array(ImageColor.getrgb(colour), dtype=np.float64) for colour in random_.sample(PAPERS, 2))
    shade = random_.uniform(0.85, 1.0)
    angle = random_.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    fade = (0.5 + 0.7 * (x * math.cos(angle) + y * math.sin(angle))).clip(0, 1)[..., None]
    sheet = Image.fromarray(((top * (1 - fade) + bottom * fade) * shade).round().astype(np.uint8))
    pen = ImageDraw.Draw(sheet, "RGBA")
    for _ in range(random_.randint(2, 6)):
        x0, y0, radius = random_.uniform(0, side), random_.uniform(0, side), random_.uniform(0.02, 0.12) * side
        red, green, blue = ImageColor.getrgb(random_.choice(PAINTS))[:3]
        pen.ellipse(
            (x0 - radius, y0 - radius, x0 + radius, y0 + radius), fill=(red, green, blue, random_.randint(20, 60))
        )
    return sheet


# --- the classes ---------------------------------------------------------------------------------------------------


def _house(pen: Pen, random_: random.Random) -> None:
    wall, roof, door, window = pen.paints
    ridge = random_.uniform(-0.2, 0.2)
    eaves = random_.uniform(0.8, 1.0)
    if random_.random() < 0.6:
        pen.shape([(0.35, -0.9), (0.6, -0.9), (0.6, -0.2), (0.35, -0.2)], door)
    pen.shape([(-0.75, -0.2), (0.75, -0.2), (0.75, 0.9), (-0.75, 0.9)], wall)
    pen.shape([(-eaves, -0.2), (ridge, -1.0), (eaves, -0.2)], roof)
    pen.shape([(-0.15, 0.9), (-0.15, 0.3), (0.15, 0.3), (0.15, 0.9)], door)
    for x in (-0.5, 0.45):
        pen.shape([(x - 0.15, 0.1), (x + 0.15, 0.1), (x + 0.15, 0.4), (x - 0.15, 0.4)], window)
        pen.line([(x, 0.1), (x, 0.4)])


def _tree(pen: Pen, random_: random.Random) -> None:
    leaf, trunk, fruit, _ = pen.paints
    pen.shape([(-0.12, 0.1), (0.12, 0.1), (0.18, 1.0), (-0.18, 1.0)], trunk)
    if random_.random() < 0.5:
        for i, top in enumerate((0.0, -0.35, -0.7)):
            width = 0.8 - 0.17 * i
            pen.shape([(-width, top + 0.45), (0, top - 0.35), (width, top + 0.45)], leaf)
        return
    pen.oval(-0.4, -0.1, 0.42, 0.4, leaf)
    pen.oval(0.4, -0.1, 0.42, 0.4, leaf)
    pen.oval(0, -0.5, 0.55, 0.5, leaf)
    for _ in range(random_.randint(2, 5)):
        pen.oval(random_.uniform(-0.5, 0.5), random_.uniform(-0.7, 0.1), 0.08, 0.08, fruit)


def _fish(pen: Pen, random_: random.Random) -> None:
    body, tail, fin, _ = pen.paints
    plump = random_.uniform(0.36, 0.58)
    pen.shape([(0.5, 0), (1.0, -0.45), (0.88, 0), (1.0, 0.45)], tail)
    pen.shape([(-0.2, -plump * 0.8), (0.1, -plump - 0.3), (0.3, -plump * 0.7)], fin)
    pen.oval(-0.15, 0, 0.78, plump, body)
    pen.line(arc(-0.75, 0, 0.35, plump * 0.75, -60, 60))
    for x in np.linspace(-0.1, 0.35, random_.randint(2, 4)):
        pen.line(arc(float(x), 0, 0.1, plump * 0.4, -80, 80))
    pen.dot(-0.62, -0.12, 0.07)


def _cup(pen: Pen, random_: random.Random) -> None:
    china, band, tea, _ = pen.paints
    foot = random_.uniform(0.4, 0.62)
    pen.oval(0.65, 0.1, 0.38, 0.36, None)
    pen.oval(0.65, 0.1, 0.22, 0.2, None)
    pen.shape([(-0.7, -0.4), (0.7, -0.4), (foot, 0.85), (-foot, 0.85)], china)
    middle = (0.7 + foot) / 2
    pen.shape([(-middle, 0.1), (middle, 0.1), (middle - 0.05, 0.4), (-middle + 0.05, 0.4)], band)
    pen.oval(0, -0.4, 0.7, 0.17, tea)
    for x in (-0.25, 0.15)[: random_.randint(0, 2)]:
        pen.line([(x + 0.09 * math.sin(7 * t), -0.6 - 0.45 * t) for t in np.linspace(0, 1, 20)])


def _star(pen: Pen, random_: random.Random) -> None:
    outer, inner, *_ = pen.paints
    rays = random_.choice((5, 5, 5, 6, 7))
    waist = random_.uniform(0.38, 0.5)
    turn = random_.uniform(-0.3, 0.3) - math.pi / 2

    def rays_of(radius: float) -> list[Point]:
        lengths = (radius if i % 2 == 0 else radius * waist for i in range(2 * rays))
        return [
            (length * math.cos(turn + math.pi * i / rays), length * math.sin(turn + math.pi * i / rays))
            for i, length in enumerate(lengths)
        ]

    pen.shape(rays_of(1.0), outer)
    if random_.random() < 0.5:
        pen.shape(rays_of(0.55), inner)


def _boat(pen: Pen, random_: random.Random) -> None:
    hull, sail, jib, flag = pen.paints
    mast = random_.uniform(-0.15, 0.1)
    pen.line([(mast, 0.4), (mast, -1.0)])
    pen.shape([(mast + 0.06, -0.9), (mast + 0.06, 0.3), (0.85, 0.3)], sail)
    pen.shape([(mast - 0.06, -0.7), (mast - 0.06, 0.3), (-0.7, 0.3)], jib)
    pen.shape([(mast, -1.0), (mast + 0.28, -0.93), (mast, -0.86)], flag)
    pen.shape([(-1.0, 0.42), (1.0, 0.42), (0.65, 0.85), (-0.6, 0.85)], hull)
    for y in (0.95, 1.1)[: random_.randint(1, 2)]:
        pen.line([(x, y + 0.05 * math.sin(9 * x)) for x in np.linspace(-1.0, 1.0, 40)])


def _flower(pen: Pen, random_: random.Random) -> None:
    petal, heart, leaf, _ = pen.paints
    petals = random_.randint(5, 9)
    bend = random_.uniform(-0.25, 0.25)
    pen.line([(bend * t * t, -0.3 + 1.3 * t) for t in np.linspace(0, 1, 20)])
    pen.shape([(bend * 0.4, 0.5), (0.35, 0.25), (0.6, 0.3), (0.35, 0.5)], leaf)
    pen.shape([(bend * 0.5, 0.65), (-0.35, 0.4), (-0.55, 0.45), (-0.3, 0.65)], leaf)
    size = 1.15 / petals + 0.07
    for i in range(petals):
        angle = 2 * math.pi * i / petals
        pen.oval(0.42 * math.cos(angle), -0.4 + 0.42 * math.sin(angle), size, size, petal)
    pen.oval(0, -0.4, 0.22, 0.22, heart)


def _key(pen: Pen, random_: random.Random) -> None:
    metal, *_ = pen.paints
    bow = random_.uniform(0.32, 0.42)
    pen.shape([(-0.4, -0.09), (1.0, -0.09), (1.0, 0.09), (-0.4, 0.09)], metal)
    for i in range(random_.randint(2, 3)):
        x, length = 0.88 - 0.22 * i, random_.uniform(0.25, 0.42)
        pen.shape([(x - 0.07, 0.09), (x + 0.07, 0.09), (x + 0.07, length), (x - 0.07, length)], metal)
    pen.oval(-0.6, 0, bow, bow, metal)
    pen.oval(-0.6, 0, bow * 0.5, bow * 0.5, "#fbfaf5")


def _umbrella(pen: Pen, random_: random.Random) -> None:
    one, other, *_ = pen.paints
    panels = random_.choice((4, 5, 6))
    height = random_.uniform(0.75, 0.95)
    pen.line([(0, -0.05), (0, 0.8), *arc(-0.17, 0.8, 0.17, 0.17, 0, 180)])
    pen.line([(0, -height), (0, -height - 0.15)])
    edges = [math.cos(math.pi * (1 - i / panels)) for i in range(panels + 1)]
    for i, (left, right) in enumerate(pairwise(edges)):
        over = [(left + (right - left) * t, 0.0) for t in np.linspace(0, 1, 10)]
        rim = [(x, -0.12 * math.sin(math.pi * (x - left) / (right - left))) for x, _ in over]
        ribs = [(right * math.cos(t), -height * math.sin(t)) for t in np.linspace(0, math.pi / 2, 15)]
        back = [(left * math.cos(t), -height * math.sin(t)) for t in np.linspace(math.pi / 2, 0, 15)]
        pen.shape([*rim, *ribs, *back], one if i % 2 == 0 else other)


def _cat(pen: Pen, random_: random.Random) -> None:
    fur, ear, eye, _ = pen.paints
    ears = random_.uniform(0.75, 1.0)
    for side in (-1, 1):
        pen.shape([(side * 0.75, -0.25), (side * 0.72, -ears), (side * 0.15, -0.62)], fur)
        pen.shape([(side * 0.64, -0.42), (side * 0.62, -ears + 0.2), (side * 0.34, -0.58)], ear)
    pen.oval(0, 0.05, 0.85, 0.75, fur)
    for side in (-1, 1):
        pen.oval(side * 0.35, -0.1, 0.16, random_.uniform(0.1, 0.18), eye)
        pen.dot(side * 0.35, -0.1, 0.06)
        pen.line(arc(side * 0.13, 0.33, 0.13, 0.12, 0, 180))
        for y in (0.22, 0.34):
            pen.line([(side * 0.4, y), (side * 1.05, y + random_.uniform(-0.1, 0.12))])
    pen.shape([(-0.1, 0.16), (0.1, 0.16), (0, 0.3)], ear)


def _mushroom(pen: Pen, random_: random.Random) -> None:
    cap, spot, *_ = pen.paints
    foot = random_.uniform(0.25, 0.4)
    pen.shape([(-0.22, 0.05), (0.22, 0.05), (foot, 0.9), (-foot, 0.9)], "#f7f0e0")
    pen.oval(0, 0.1, random_.uniform(0.75, 0.98), random_.uniform(0.75, 0.98), cap, 180, 360)
    for x, y in random_.sample([(-0.5, -0.15), (0.0, -0.25), (0.5, -0.15), (-0.25, -0.5), (0.28, -0.48)], 4):
        pen.oval(x, y, 0.11, 0.09, spot)


def _snail(pen: Pen, random_: random.Random) -> None:
    body, shell, *_ = pen.paints
    turns = random_.uniform(2.2, 3.2)
    pen.shape([(-1.0, 0.4), (-0.95, 0.1), (-0.7, 0.1), (-0.55, 0.5), (0.5, 0.55), (1.0, 0.85), (-0.75, 0.85)], body)
    for x in (-0.98, -0.76):
        pen.line([(x + 0.03, 0.15), (x - 0.06, -0.3)])
        pen.dot(x - 0.06, -0.32, 0.06)
    pen.oval(0.15, 0.05, 0.65, 0.62, shell)
    pen.line(
        [
            (0.15 + 0.6 * t * math.cos(2 * math.pi * turns * t), 0.05 + 0.57 * t * math.sin(2 * math.pi * turns * t))
            for t in np.linspace(0.05, 1, 90)
        ]
    )


DRAWINGS: dict[str, Callable[[Pen, random.Random], None]] = {
    "boat": _boat,
    "cat": _cat,
    "cup": _cup,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "key": _key,
    "mushroom": _mushroom,
    "snail": _snail,
    "star": _star,
    "tree": _tree,
    "umbrella": _umbrella,
}
CLASSES: tuple[str, ...] = tuple(DRAWINGS)
