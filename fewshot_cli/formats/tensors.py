"""Safetensors files whose bytes follow from their content alone, and tensors of files that others wrote."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor

from fewshot_cli.errors import FewshotError

COMPUTED_WITH = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The floating-point types that torch computes with on a CPU; it only converts the others, as those of eight bits."""


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of the tensors and the metadata, the same for the same content."""
    content = io.BytesIO()
    _write(content, tensors, metadata)
    return content.getvalue()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> int:
    """Writes what `safetensors_bytes` gives, one tensor after another, and gives its size in bytes."""
    with path.open("wb") as file:
        _write(file, tensors, metadata)
        return file.tell()


def bytes_of(values: Tensor) -> memoryview:
    """The values as they lie in memory, without a copy where they are on the CPU in the order of their axes."""
    flat = values.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if len(flat) else memoryview(b"")


def _write(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Header and tensors as the library orders and names them, but metadata as given: there, their order changes from
    run to run. The library asks for all the bytes at once, which for a checkpoint are gigabytes."""
    empty = save({name: torch.empty(0, dtype=values.dtype) for name, values in tensors.items()})
    header: dict[str, Any] = json.loads(empty[8 : 8 + int.from_bytes(empty[:8], "little")])
    end = 0
    for name, entry in header.items():
        start, end = end, end + tensors[name].numel() * tensors[name].element_size()
        entry |= {"shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header | {"__metadata__": dict(metadata)}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    file.write(len(text).to_bytes(8, "little") + text)
    for name in header:
        file.write(bytes_of(tensors[name]))


def numbers_in(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that others wrote, floats of eight bits as float32.

    Raises FewshotError, which names the tensor, for values that are no finite numbers in float32, and for types that
    are none of real numbers.
    """
    return {name: _numbers(path, name, values) for name, values in tensors.items()}


def _numbers(path: Path, name: str, values: Tensor) -> Tensor:
    if not values.is_floating_point():
        if values.is_complex() or values.dtype not in _WHOLE:
            raise FewshotError(f"{path} holds {name} as {_plain(values.dtype)}, which is no type of weights.", _SAVE)
        return values
    if values.dtype not in COMPUTED_WITH:
        try:
            values = values.float()
        except (RuntimeError, NotImplementedError):  # several numbers packed in a byte
            raise FewshotError(f"{path} holds {name} as {_plain(values.dtype)}, which can't be read.", _SAVE) from None
    in_float32 = values.float() if values.dtype == torch.float64 else values
    if not bool(torch.isfinite(in_float32).all()):
        raise FewshotError(
            f"{path} holds a value that is not a finite number, in {name}.",
            "Fetch or save it again; if it was trained, its training went wrong.",
        )
    return values


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


_SAVE = "Save it again in float32, bfloat16 or float16."
_WHOLE = frozenset(
    {
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint16, torch.uint32, torch.uint64),
    }
)


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none on the memory of another, which safetensors can't keep."""
    seen: set[int] = set()
    found = {}
    for name, values in tensors.items():
        place = values.untyped_storage().data_ptr()
        found[name] = values.clone() if place in seen else values
        seen.add(place)
    return found
