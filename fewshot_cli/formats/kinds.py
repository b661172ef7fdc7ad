"""Which of our own kinds a file is, by its metadata: without torch, and without reading more than its header."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from fewshot_cli.errors import FewshotError

KINDS = {
    "fewshot-delta": "a classifier (a delta file)",
    "fewshot-bank": "a bank of meta-tuning",
    "fewshot-checkpoint": "a checkpoint of meta-tuning",
}
"""Every format there is, so that an error can name the format of a wrong file."""

MOST_HEADER = 2**24
"""Bytes of JSON that are parsed: what it says takes up to thirty times as much memory."""


@dataclass(frozen=True)
class Kind:
    """One kind of file: what its metadata calls it, what people call it, and the command that makes it."""

    format: str
    version: int
    """The one that is written."""
    name: str
    command: str
    also_read: tuple[int, ...] = ()
    """Other versions, which are read."""

    @property
    def readable(self) -> tuple[str, ...]:
        """The versions of the format that this program reads."""
        return tuple(str(version) for version in sorted((*self.also_read, self.version)))

    def damaged(self, path: Path, how: str) -> FewshotError:
        """The error that tells of a damaged file of this kind, and how to get another."""
        return FewshotError(
            f"{path} is damaged: {how}.", f"Make it again with `{self.command}`, or fetch it again from where it came."
        )


DELTA = Kind("fewshot-delta", 2, "delta file", "fewshot adapt FOLDER -o FILE", also_read=(1, 3, 4))
SECTIONED_DELTA = replace(DELTA, version=3, also_read=(1, 2))
"""Written where a file has a section, so that a reader of version 2 reads all others."""
MARKING_DELTA = replace(DELTA, version=4, also_read=(1, 2, 3))
"""Written where an image may have several labels: who reads version 3 would take the likeliest for the only one."""
BANK = Kind("fewshot-bank", 1, "bank", "fewshot meta-tune RECIPE --data DIR... -o BANK", also_read=(2,))
OTHER_BANK = replace(BANK, version=2, also_read=(1,))
"""Written where a bank is neither of experts nor dense, so that a reader of version 1 reads all others."""


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose content is not read; nothing where there is none, or it isn't one."""
    try:
        with path.open("rb") as file:
            return header_of(file, path.stat().st_size)[0]
    except (OSError, ValueError):
        return {}


def backbone_of_bank(path: Path) -> str | None:
    """The backbone that a bank's header names; None for what is no bank."""
    base = stated_in(path).get("base")
    backbone = base.get("backbone") if isinstance(base, dict) and format_of(path) == BANK.format else None
    return backbone if isinstance(backbone, str) else None


def format_of(path: Path) -> str:
    """What the metadata call the file's format; nothing where there is no such file, or it isn't safetensors."""
    return metadata_of(path).get("format", "")


def kind_of_bank(path: Path) -> str | None:
    """What a bank's header says that it holds ("dense", "experts", ...); None for what is no bank."""
    kind = stated_in(path).get("kind")
    return kind if format_of(path) == BANK.format and isinstance(kind, str) else None


def stated_in(path: Path) -> dict[str, Any]:
    """The header of one of our files as it stands, unchecked; nothing for what is none of them."""
    try:
        found = strict_json(metadata_of(path)["header"])
    except (ValueError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def check_one_label(path: Path) -> None:
    """Raises FewshotError where a delta file gives an image several labels, as its header says."""
    if "thresholds" in stated_in(path):
        raise gives_several_labels(path)


def gives_several_labels(path: Path) -> FewshotError:
    """What to say where a single label for each image is needed."""
    return FewshotError(
        f"{path} gives an image several labels, and this needs a classifier that gives one.",
        "`fewshot predict`, `eval`, `inspect`, `verify` and `push` take it as it is; `fewshot adapt FOLDER "
        "--labels one` makes one class of each folder.",
    )


def check_safetensors(path: Path) -> None:
    """Raises FewshotError where there is no such file of weights, or its header isn't that of a safetensors file."""
    if not path.is_file():
        raise FewshotError(f"There is no weights file '{path}'.", "Give --weights a safetensors file of the backbone.")
    try:
        with path.open("rb") as file:
            header_of(file, path.stat().st_size)
    except (OSError, ValueError) as error:
        raise FewshotError(
            f"{path} is not a safetensors file: {' '.join(str(error).split())}.",
            "Convert it once with safetensors.torch.save_file; .pt and .pth files can run code, and are not read.",
        ) from None


def check_ours(path: Path) -> None:
    """Raises FewshotError where the file is neither a delta file nor a bank."""
    kind = BANK if format_of(path) == BANK.format else DELTA
    check_kind(path, kind, kind.readable)


def check_kind(path: Path, kind: Kind, versions: Sequence[str]) -> None:
    """Raises FewshotError, in one sentence, for a file that is missing, truncated, of another kind or a newer version.

    Its content is not looked at: that may still have been changed.
    """
    if not path.is_file():
        raise FewshotError(f"There is no {kind.name} '{path}'.", f"`{kind.command}` makes one.")
    try:
        with path.open("rb") as file:
            metadata, _ = header_of(file, path.stat().st_size)
    except (OSError, ValueError) as error:
        raise unreadable(path, kind, error) from None
    found = metadata.get("format", "")
    if found != kind.format:
        raise FewshotError(
            f"{path} is {KINDS.get(found, 'a safetensors file')}, but not a {kind.name}.",
            f"`{kind.command}` makes one.",
        )
    version = metadata.get("version", "")
    if version not in versions:
        raise FewshotError(
            f"{path} has version {version!r} of the {kind.name} format; this fewshot reads {' and '.join(versions)}.",
            "Update fewshot-cli.",
        )


def unreadable(path: Path, kind: Kind, error: Exception) -> FewshotError:
    """What to say of a file of which not even the header can be read."""
    return FewshotError(
        f"{path} is not a {kind.name}, or it is damaged: {' '.join(str(error).split())}.",
        f"Make it again with `{kind.command}`.",
    )


def header_of(file: BinaryIO, size: int) -> tuple[dict[str, str], int]:
    """The metadata of a safetensors file of that size, and where its tensors begin.

    Raises ValueError for one that is cut, or longer than it says, or names a tensor twice.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, MOST_HEADER):
        raise ValueError("it is cut off")
    listed = strict_json(file.read(length).decode())
    metadata = listed.pop("__metadata__", {}) if isinstance(listed, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its tensors are not listed")
    if size != 8 + length + max(map(_end, listed.values()), default=0):
        raise ValueError("its size is not what it says")
    return metadata, 8 + length


def _end(entry: Any) -> int:
    """Where a tensor ends, as a safetensors header lists it."""
    try:
        return int(entry["data_offsets"][1])
    except (KeyError, IndexError, TypeError, OverflowError):
        raise ValueError("its tensors are not listed") from None


def strict_json(text: str) -> Any:
    """What the text says; raises ValueError for a key twice, NaN, what is nested too deeply, and what is no JSON."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it has {twice[:80]!r} twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")
