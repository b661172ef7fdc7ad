"""Our own kinds of files: safetensors with a JSON header and a hash of their content, so that no change goes unseen."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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


@dataclass(frozen=True)
class Kind:
    """One kind of file: what its metadata calls it, what people call it, and the command that makes it."""

    format: str
    version: int
    name: str
    command: str

    def damaged(self, path: Path, how: str) -> FewshotError:
        return FewshotError(
            f"{path} is damaged: {how}.", f"Make it again with `{self.command}`, or fetch it again from where it came."
        )


class Malformed(Exception):
    """The content of a file does not fit its header; says how."""


def signed_bytes(kind: Kind, header: BaseModel, tensors: Mapping[str, Tensor]) -> bytes:
    """The file of this kind with these tensors, the same for the same content."""
    stored = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
    text = header.model_dump_json()
    metadata = {"format": kind.format, "version": str(kind.version), "header": text, "sha256": _digest(text, stored)}
    return safetensors_bytes(stored, metadata)


def format_of(path: Path) -> str:
    """What the metadata call the file's format; nothing where there is no such file, or it isn't safetensors."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("format", ""))
    except (SafetensorError, OSError, ValueError):
        return ""


def read_signed(path: Path, kind: Kind, header: type[HeaderType]) -> tuple[HeaderType, dict[str, Tensor], str]:
    """The header, the tensors and the digest of the file, which is right.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of another kind or a newer
    version. No content of a file makes it do anything else.
    """
    if not path.is_file():
        raise FewshotError(f"There is no {kind.name} '{path}'.", f"`{kind.command}` makes one.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type of number that torch lacks
        raise FewshotError(
            f"{path} is not a {kind.name}, or it is damaged: {error}.", f"Make it again with `{kind.command}`."
        ) from None
    found = metadata.get("format", "")
    if found != kind.format:
        raise FewshotError(
            f"{path} is {KINDS.get(found, 'a safetensors file')}, but not a {kind.name}.",
            f"`{kind.command}` makes one.",
        )
    version = metadata.get("version", "")
    if version != str(kind.version):
        raise FewshotError(
            f"{path} has version {version!r} of the {kind.name} format; this fewshot reads {kind.version}.",
            "Update fewshot-cli.",
        )
    text = metadata.get("header", "")
    digest = _digest(text, tensors)
    if digest != metadata.get("sha256"):
        raise kind.damaged(path, "its content does not match its hash")
    try:
        return header.model_validate_json(text), tensors, digest
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise kind.damaged(path, f"its header is wrong at {place}: {first['msg']}") from None


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
