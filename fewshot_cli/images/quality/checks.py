"""What is wrong, or worth knowing, in a folder of labelled images; nothing is changed and no model is needed."""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fewshot_cli.images.decode import orientation, upright_rgb
from fewshot_cli.images.depth import Levels
from fewshot_cli.images.image_error import DAMAGE, BadFile, ImageError
from fewshot_cli.images.prefetch import in_order
from fewshot_cli.images.quality.near_duplicates import PictureSignature, SignatureIndex, signature
from fewshot_cli.images.sources.class_folders import Folder, Item, name_is_text

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
        "rescaled",
        "sixteen-bit",
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
    "not-read": "skipped",
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
    "rescaled": "note",
    "sixteen-bit": "note",
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


def checkup(folder: Folder, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Finding]:
    """The findings in a folder, what stops `adapt` first; `progress` is told how many of how many files are done."""
    visits: list[_Visit] = []
    pictures = _Pictures()
    with SignatureIndex() as signatures:
        for visit, seen in in_order(_visit, folder.items):
            visits.append(visit)
            if seen is not None and pictures.first(visit):
                signatures.add(seen)
            progress(len(visits), len(folder.items))
        near = signatures.copies()
    findings = [finding for visit in visits for finding in visit.findings]
    findings += _same_bytes(visits)
    findings += pictures.same(near)
    findings += [
        Finding(folder.root / label, label, "class-name", "its name is not text in UTF-8", "Rename it.")
        for label in folder.classes
        if not name_is_text(label)
    ]
    findings += _thin_classes(folder, visits)
    findings += [
        Finding(path, "", "outside", "lies outside of any class folder", "Move it into the folder of its class.")
        for path in folder.loose
    ]
    severities = list(dict.fromkeys(SEVERITIES.values()))
    return sorted(findings, key=lambda finding: severities.index(finding.severity))


# --- one file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Visit:
    """What is kept of a file once it has been read; no digest where it gives no picture."""

    item: Item
    findings: list[Finding]
    digest: str = ""


def _visit(item: Item) -> tuple[_Visit, PictureSignature | None]:
    try:
        content = item.stored.read()
        with content.opened() as image:
            # In this order: reading the pixels may change mode, size and orientation; counting frames moves on.
            findings = _header_findings(item, image)
            deep = any(finding.kind == "sixteen-bit" for finding in findings)
            small = upright_rgb(image, (2 * TINY, 2 * TINY))
            if deep and small.levels is not None and not small.levels.usual:
                findings = [finding for finding in findings if finding.kind != "sixteen-bit"]
                findings.append(_rescaled(item, small.levels))
            findings += _content_findings(item, image)
        return _Visit(item, findings, content.hash), signature(small.image)
    except ImageError as error:
        return _Visit(item, [Finding(item.path, item.label, error.kind, error.reason, error.remedy)]), None


def _rescaled(item: Item, levels: Levels) -> Finding:
    problem = f"holds less than its numbers can, and {levels} became black to white"
    return Finding(
        item.path, item.label, "rescaled", problem, "Nothing to do if it looks right; else save it in 8 bits."
    )


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


def _content_findings(item: Item, image: Image.Image) -> list[Finding]:
    found: list[tuple[Kind, str, str]] = []
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


class _Pictures:
    """The pictures that differ in their bytes, in the order in which they are looked at."""

    def __init__(self) -> None:
        self._digests: set[str] = set()
        self._items: list[Item] = []

    def first(self, visit: _Visit) -> bool:
        """Whether no picture before had these bytes; then it is one of them."""
        if visit.digest in self._digests:
            return False
        self._digests.add(visit.digest)
        self._items.append(visit.item)
        return True

    def same(self, pairs: list[tuple[int, int]]) -> list[Finding]:
        """One finding for each picture that shows what an earlier one shows, in other bytes."""
        twins: dict[int, list[Item]] = defaultdict(list)
        for first, second in pairs:
            twins[second].append(self._items[first])
        kinds: tuple[Kind, Kind] = ("near-duplicate", "cross-class-near-copy")
        return [_copy(self._items[i], twins[i], kinds, "nearly the same picture as") for i in sorted(twins)]


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


def _thin_classes(folder: Folder, visits: list[_Visit]) -> list[Finding]:
    found = []
    counts = Counter(visit.item.label for visit in visits if visit.digest)
    for label in folder.classes:
        count = counts[label]
        where = folder.root / label
        if count == 0:
            remedy = "Put images into it, or remove the folder."
            found.append(Finding(where, label, "empty-class", "no image that can be read", remedy))
        if count == 1:
            remedy = "Add more: with one image, accuracy can't be estimated."
            found.append(Finding(where, label, "single-image", "a single image that can be read", remedy))
    return found
