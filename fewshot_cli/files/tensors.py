"""Safetensors files whose bytes follow from their content alone."""

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of the tensors and the metadata, the same for the same content.

    The library writes metadata in an order that changes from run to run; here it is as given.
    """
    on_cpu = {name: values.detach().cpu().contiguous() for name, values in tensors.items()}
    content = save(on_cpu, dict(metadata))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start]) | {"__metadata__": dict(metadata)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text + content[start:]
