"""Our own kinds of files: safetensors with a JSON header and a hash of their content, so that no change goes unseen."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.files.tensors import safetensors_bytes

HeaderType = TypeVar("HeaderType", bound=BaseModel)

KINDS = {
    "fewshot-delta": "a classifier (a delta file)",
    "fewshot-bank": "a bank of meta-tuning",
    "fewshot-checkpoint": "a checkpoint of meta-tuning",
}
"""Every format there is, for whoever is given the wrong one."""

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

    def damaged(self, path: Path, how: str) -> FewshotError:
        return FewshotError(
            f"{path} is damaged: {how}.", f"Make it again with `{self.command}`, or fetch it again from where it came."
        )


class Malformed(Exception):
    """The content of a file does not fit its header; says how."""


def taken(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Takes a tensor out of `tensors`; raises Malformed where it is missing."""
    if name not in tensors:
        raise Malformed(f"{name} is missing")
    return tensors.pop(name)


def signed_bytes(kind: Kind, header: BaseModel, tensors: Mapping[str, Tensor]) -> bytes:
    """The file of this kind with these tensors, the same for the same content."""
    stored = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
    text = header.model_dump_json()
    metadata = {"format": kind.format, "version": str(kind.version), "header": text, "sha256": _digest(text, stored)}
    return safetensors_bytes(stored, metadata)


def metadata_of(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose content is not read; nothing where there is none, or it isn't one."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError):
        return {}


def format_of(path: Path) -> str:
    """What the metadata call the file's format; nothing where there is no such file, or it isn't safetensors."""
    return metadata_of(path).get("format", "")


def read_signed(
    path: Path, kind: Kind, header: type[HeaderType], older: Mapping[int, type[HeaderType]] | None = None
) -> tuple[HeaderType, dict[str, Tensor], str]:
    """The header, the tensors and the digest of the file, which is right; `older` are headers of former versions.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of another kind or a newer
    version. No content of a file makes it do anything else, nor take more memory than three times the
    file's size and thirty times its header's.
    """
    if not path.is_file():
        raise FewshotError(f"There is no {kind.name} '{path}'.", f"`{kind.command}` makes one.")
    try:
        metadata, content = _opened(path)
        tensors = load(content)
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type of number that torch lacks
        raise FewshotError(
            f"{path} is not a {kind.name}, or it is damaged: {' '.join(str(error).split())}.",
            f"Make it again with `{kind.command}`.",
        ) from None
    except MemoryError:
        raise FewshotError(
            f"{path} can't be read: it takes {3 * path.stat().st_size / 1e9:.1f} GB of memory.",
            "Use a machine with more memory.",
        ) from None
    found = metadata.get("format", "")
    if found != kind.format:
        raise FewshotError(
            f"{path} is {KINDS.get(found, 'a safetensors file')}, but not a {kind.name}.",
            f"`{kind.command}` makes one.",
        )
    headers = {str(version): of_version for version, of_version in (older or {}).items()} | {str(kind.version): header}
    version = metadata.get("version", "")
    if version not in headers:
        raise FewshotError(
            f"{path} has version {version!r} of the {kind.name} format; this fewshot reads {' and '.join(headers)}.",
            "Update fewshot-cli.",
        )
    text = metadata.get("header", "")
    digest = _digest(text, tensors)
    if digest != metadata.get("sha256"):
        raise kind.damaged(path, "its content does not match its hash")
    try:
        found_header = headers[version].model_validate_json(text)
        _strict_json(text)
        return found_header, tensors, digest
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise kind.damaged(path, f"its header is wrong at {place}: {first['msg']}") from None
    except ValueError as error:
        raise kind.damaged(path, f"its header is wrong: {error}") from None


def _opened(path: Path) -> tuple[dict[str, str], bytes]:
    """The metadata and the whole of a safetensors file, of which nothing is read before its size is what it says.

    Raises ValueError for one that is cut, or longer than it says, or names a tensor twice.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, MOST_HEADER):
            raise ValueError("it is cut off")
        text = file.read(length)
        listed = _strict_json(text.decode())
        metadata = listed.pop("__metadata__", {}) if isinstance(listed, dict) else None
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its tensors are not listed")
        if size != 8 + length + max(map(_end, listed.values()), default=0):
            raise ValueError("its size is not what it says")
        file.seek(0)
        return metadata, file.read(size)


def _end(entry: Any) -> int:
    """Where a tensor ends, as a safetensors header lists it."""
    try:
        return int(entry["data_offsets"][1])
    except (KeyError, IndexError, TypeError, OverflowError):
        raise ValueError("its tensors are not listed") from None


def _strict_json(text: str) -> Any:
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


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
