"""What is wrong, or worth knowing, in a folder of labelled images; nothing is changed and no model is needed."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fewshot_cli.images.copies import Look, copies, look
from fewshot_cli.images.datasets import Dataset
from fewshot_cli.images.decode import DAMAGE, BadFile, ImageError, orientation, upright_rgb
from fewshot_cli.images.folders import left_out, read_folder
from fewshot_cli.images.loading import in_order
from fewshot_cli.images.stored import Stored, StoredFile

Severity = Literal["error", "skipped", "warning", "note"]
Kind = (
    BadFile
    | Literal[
        "empty-class",
        "class-name",
        "cross-class-copy",
        "outside",
        "single-image",
        "duplicate",
        "near-duplicate",
        "cross-class-near-copy",
        "tiny",
        "rotated",
        "cmyk",
        "alpha",
        "sixteen-bit",
        "value-range",
        "animated",
    ]
)

# What `fewshot adapt` does: stops at an error, leaves out what is skipped, uses what has a warning or a note.
SEVERITIES: dict[Kind, Severity] = {
    "empty-class": "error",
    "class-name": "error",
    "cross-class-copy": "error",
    "empty-file": "skipped",
    "truncated": "skipped",
    "not-an-image": "skipped",
    "too-large": "skipped",
    "unreadable": "skipped",
    "outside": "skipped",
    "duplicate": "skipped",
    "cross-class-near-copy": "warning",
    "near-duplicate": "warning",
    "single-image": "warning",
    "tiny": "warning",
    "rotated": "note",
    "cmyk": "note",
    "alpha": "note",
    "sixteen-bit": "note",
    "value-range": "note",
    "animated": "note",
}
TINY = 32  # pixels


@dataclass(frozen=True)
class Finding:
    """One thing about one file or class: what, what to do, and the other file where two are concerned."""

    path: Path
    label: str
    kind: Kind
    problem: str
    remedy: str
    other: Path | None = None

    @property
    def severity(self) -> Severity:
        """What `fewshot adapt` makes of it."""
        return SEVERITIES[self.kind]


@dataclass(frozen=True)
class Item:
    """A picture and its class."""

    stored: Stored
    label: str

    @property
    def path(self) -> Path:
        """Where it lies; in a zip that is "archive.zip: cats/1.jpg"."""
        return Path(self.stored.name)


@dataclass(frozen=True)
class Examined:
    """Labelled pictures to examine; `loose` lie outside of any class, `left_out` are leftovers."""

    root: Path
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    loose: tuple[Path, ...] = ()
    left_out: tuple[Path, ...] = ()

    @classmethod
    def of_folder(cls, root: Path) -> "Examined":
        """Raises FewshotError where the folder holds no classes."""
        folder = read_folder(root, allow_empty=True)
        items = tuple(Item(StoredFile(item.path), item.label) for item in folder.items)
        return cls(root, folder.classes, items, folder.loose, tuple(left_out(root)))

    @classmethod
    def of(cls, dataset: Dataset) -> "Examined":
        items = tuple(Item(sample.stored, dataset.classes[sample.label]) for sample in dataset.samples)
        return cls(dataset.root, dataset.classes, items)


def checkup(folder: Examined, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Finding]:
    """The findings, what stops `adapt` first; `progress` is told how many of how many files are done."""
    visits: list[_Visit] = []
    for visit in in_order(_visit, folder.items):
        visits.append(visit)
        progress(len(visits), len(folder.items))
    findings = [finding for visit in visits for finding in visit.findings]
    findings += _same_bytes(visits)
    findings += _same_pictures(visits)
    findings += _thin_classes(folder, visits)
    findings += _names(folder)
    findings += [
        Finding(path, "", "outside", "lies outside of any class folder", "Move it into the folder of its class.")
        for path in folder.loose
    ]
    severities = list(dict.fromkeys(SEVERITIES.values()))
    return sorted(findings, key=lambda finding: severities.index(finding.severity))


# --- one file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Visit:
    """What is kept of a file once it has been read: nothing to compare where it gives no picture."""

    item: Item
    findings: list[Finding]
    digest: str = ""
    look: Look | None = None


def _visit(item: Item) -> _Visit:
    try:
        with item.stored.opened() as image:
            # In this order: reading the pixels may change mode, size and orientation; counting frames moves on.
            findings = _header_findings(item, image)
            draft = upright_rgb(image, (2 * TINY, 2 * TINY))
            findings += _content_findings(item, image, draft.range)
        return _Visit(item, findings, item.stored.content_hash(), look(draft.image))
    except ImageError as error:
        return _Visit(item, [Finding(item.path, item.label, error.kind, error.reason, error.remedy)])


def _header_findings(item: Item, image: Image.Image) -> list[Finding]:
    found: list[tuple[Kind, str, str]] = []
    if min(image.size) < TINY:
        problem = f"tiny: {image.width} x {image.height} pixels"
        found.append(("tiny", problem, "Use a larger copy if there is one; enlarging this one adds nothing."))
    if (turned := orientation(image)) != 1:
        problem = f"stored turned (EXIF orientation {turned}), read upright"
        found.append(("rotated", problem, "Nothing to do here; other tools may show it lying on its side."))
    if image.mode == "CMYK":
        found.append(("cmyk", "in the colours of print (CMYK), converted", "Nothing to do; RGB copies are more exact."))
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or ";16" in str(getattr(image, "tile", "")):
        found.append(("sixteen-bit", "more than 8 bits per colour, scaled to 8", "Nothing to do if it looks right."))
    return [Finding(item.path, item.label, *what) for what in found]


def _content_findings(item: Item, image: Image.Image, range_: str) -> list[Finding]:
    found: list[tuple[Kind, str, str]] = []
    if range_:
        problem = f"values of more than 8 bits, of which {range_} were taken for black to white"
        found.append(("value-range", problem, "Save it in 8 bits if it looks too bright or too dark that way."))
    if image.has_transparency_data and np.asarray(image.convert("RGBA").getchannel("A")).min() < 255:
        found.append(("alpha", "partly transparent, put on white", "Save it on the background that you want."))
    # An MPO is a photo with a second view or a depth map behind it, as many phones make.
    if image.format != "MPO" and _has_frames(image):
        found.append(("animated", "has several frames, only the first is used", "Save the frame that you want."))
    return [Finding(item.path, item.label, *what) for what in found]


def _has_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except (OSError, *DAMAGE):  # the second frame is broken, and nobody looks at it
        return False


# --- several files -------------------------------------------------------------------------------------------------


def _same_bytes(visits: list[_Visit]) -> list[Finding]:
    """One finding for each file that has the bytes of an earlier one, about another class where there is a choice."""
    earlier: dict[str, list[Item]] = defaultdict(list)
    found = []
    for visit in visits:
        if visit.digest:
            twins = earlier[visit.digest]
            if twins:
                found.append(_copy(visit.item, twins, ("duplicate", "cross-class-copy"), "the same file as"))
            twins.append(visit.item)
    return found


def _same_pictures(visits: list[_Visit]) -> list[Finding]:
    """One finding for each picture that shows what an earlier one shows, in other bytes."""
    first_of = {visit.digest: visit for visit in reversed(visits) if visit.look is not None}
    kept = [visit for visit in visits if first_of.get(visit.digest) is visit]
    twins: dict[int, list[Item]] = defaultdict(list)
    for first, second in copies([visit.look for visit in kept if visit.look is not None]):
        twins[second].append(kept[first].item)
    return [
        _copy(kept[i].item, twins[i], ("near-duplicate", "cross-class-near-copy"), "nearly the same picture as")
        for i in sorted(twins)
    ]


def _copy(item: Item, twins: list[Item], kinds: tuple[Kind, Kind], what: str) -> Finding:
    """The finding about a file and those it is a copy of: of the second kind if one of them has another label."""
    for twin in twins:
        if twin.label != item.label:
            problem = f"{what} {twin.path}, which is labelled {twin.label!r}"
            return Finding(item.path, item.label, kinds[1], problem, "Keep it in the right class only.", twin.path)
    if kinds[0] == "duplicate":
        remedy = "Delete one, if you like; it is learned from once."
    else:
        remedy = "Delete one: copies weigh double, and hide mistakes when one is used to check the other."
    return Finding(item.path, item.label, kinds[0], f"{what} {twins[0].path}", remedy, twins[0].path)


def _thin_classes(folder: Examined, visits: list[_Visit]) -> list[Finding]:
    found = []
    for label in folder.classes:
        count = sum(visit.item.label == label and visit.look is not None for visit in visits)
        where = folder.root / label
        if count == 0:
            remedy = "Put images into it, or remove the folder."
            found.append(Finding(where, label, "empty-class", "no image that can be read", remedy))
        if count == 1:
            remedy = "Add more: with one image, accuracy can't be estimated."
            found.append(Finding(where, label, "single-image", "a single image that can be read", remedy))
    return found


def _names(folder: Examined) -> list[Finding]:
    """The classes whose name no file of text can hold, as bytes that are no Unicode give it."""
    return [
        Finding(folder.root / label, label, "class-name", f"{label!r} is not text in Unicode", "Rename the folder.")
        for label in folder.classes
        if any("\ud800" <= character <= "\udfff" for character in label)
    ]
