"""Our own kinds of files: safetensors with a JSON header and a hash of their content, so that no change goes unseen."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.kinds import Kind, check_kind, header_of, strict_json, unreadable
from fewshot_cli.formats.tensors import bytes_of, safetensors_bytes, write_safetensors

HeaderType = TypeVar("HeaderType", bound=BaseModel)
OlderType = TypeVar("OlderType", bound=BaseModel)


class Malformed(Exception):
    """The content of a file does not fit its header; says how."""


def taken(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Takes a tensor out of `tensors`; raises Malformed where it is missing."""
    if name not in tensors:
        raise Malformed(f"{name} is missing")
    return tensors.pop(name)


def write_signed(path: Path, kind: Kind, header: BaseModel, tensors: Mapping[str, Tensor]) -> int:
    """Writes the file of this kind with these tensors, the same for the same content, and gives its size in bytes."""
    return write_safetensors(path, tensors, _metadata(kind, header, tensors))


def signed_bytes(kind: Kind, header: BaseModel, tensors: Mapping[str, Tensor]) -> int:
    """The size of the file that `write_signed` would write."""
    return len(safetensors_bytes(tensors, _metadata(kind, header, tensors)))


def _metadata(kind: Kind, header: BaseModel, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    text = header.model_dump_json()
    return {"format": kind.format, "version": str(kind.version), "header": text, "sha256": _digest(text, tensors)}


def read_signed(
    path: Path, kind: Kind, header: type[HeaderType], older: Mapping[int, type[OlderType]] | None = None
) -> tuple[HeaderType | OlderType, dict[str, Tensor], str]:
    """The header, the tensors and the digest of the file, which is right; `older` are headers of former versions.

    Raises FewshotError, in one sentence, for a file that is missing, truncated, changed, of another kind or a newer
    version. No content of a file makes it do anything else, nor take more memory than three times the
    file's size and thirty times its header's.
    """
    headers = {str(version): of_version for version, of_version in (older or {}).items()} | {str(kind.version): header}
    check_kind(path, kind, tuple(headers))
    try:
        metadata, content = _opened(path)
        tensors = load(content)
    except (SafetensorError, OSError, ValueError, KeyError) as error:  # KeyError: a type of number that torch lacks
        raise unreadable(path, kind, error) from None
    except MemoryError:
        raise FewshotError(
            f"{path} can't be read: it takes {3 * path.stat().st_size / 1e9:.1f} GB of memory.",
            "Use a machine with more memory.",
        ) from None
    text = metadata.get("header", "")
    digest = _digest(text, tensors)
    if digest != metadata.get("sha256"):
        raise kind.damaged(path, "its content does not match its hash")
    try:
        found_header = headers[metadata["version"]].model_validate_json(text)
        strict_json(text)
        return found_header, tensors, digest
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise kind.damaged(path, f"its header is wrong at {place}: {first['msg']}") from None
    except ValueError as error:
        raise kind.damaged(path, f"its header is wrong: {error}") from None


def _opened(path: Path) -> tuple[dict[str, str], bytes]:
    """The metadata and the whole of a safetensors file, of which nothing is read before its size is what it says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        metadata, _ = header_of(file, size)
        file.seek(0)
        return metadata, file.read(size)


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        values = tensors[name]
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(bytes_of(values))
    return digest.hexdigest()
