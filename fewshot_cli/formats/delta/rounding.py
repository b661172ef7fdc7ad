"""Numbers as few bits: how a delta file rounds values and keeps them. docs/delta-format.md specifies it.

Rounding what was rounded changes nothing: every scale is a bfloat16, so that 127 of them are a float32.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.container import Malformed

Values: TypeAlias = Literal["float32", "bfloat16", "float16", "int8", "1bit"]

BITS: dict[Values, int] = {"float32": 32, "bfloat16": 16, "float16": 16, "int8": 8, "1bit": 1}
"""Of each value."""
DTYPES: dict[Values, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
    "1bit": torch.uint8,
}
"""Of the tensor in the file; eight 1-bit values are a byte of it."""

_STEPS = 127  # an int8 is a whole number of scales, up to so many either way
LEAST_SCALE = 2.0**-100  # below it a change is none, and bfloat16 would lose digits


def has_scale(kind: Values) -> bool:
    """Whether values of this kind are multiples of a scale that is kept beside them."""
    return kind in ("int8", "1bit")


def rounded(values: Tensor, kind: Values) -> Tensor:
    """The float32 values, of the same shape, as they are read back; they share a scale, where the kind has one.

    Raises FewshotError for values that the kind can't hold.
    """
    scale = scale_of(values, kind)
    if kind == "int8":
        return _steps(values, scale) * scale
    if kind == "1bit":
        return torch.where(values < 0, -scale, scale)
    found = values.to(DTYPES[kind]).float()
    if not bool(torch.isfinite(found).all()):
        raise FewshotError(
            f"A change of {float(values.abs().max()):.3g} is more than {kind} holds.", "--values float32"
        )
    return found


def scale_of(values: Tensor, kind: Values) -> Tensor:
    """The scale `()` that the values share, float32 with the digits of a bfloat16; 1 for kinds that have none.

    The largest int8 is `_STEPS` scales; a single bit says only on which side of 0 a value of mean size is.
    """
    if not has_scale(kind) or not values.numel():
        return torch.ones((), device=values.device)
    sizes = values.detach().double().abs()
    scale = float(sizes.max()) / _STEPS if kind == "int8" else float(sizes.mean())
    return torch.tensor(scale if scale >= LEAST_SCALE else 0.0, device=values.device).to(torch.bfloat16).float()


def packed(parts: Sequence[Tensor], scales: Sequence[Tensor], kind: Values) -> Tensor:
    """All rounded values, one part after the other, as the tensor in the file; each part has its scale."""
    flat = [part.detach().cpu().reshape(-1) for part in parts]
    if kind == "int8":
        flat = [_steps(part, scale) for part, scale in zip(flat, scales, strict=True)]
    together = torch.cat([torch.empty(0), *flat])
    if kind == "1bit":
        return torch.from_numpy(np.packbits((together >= 0).numpy()))
    return together.to(DTYPES[kind])


def count_in(stored: Tensor, kind: Values) -> int:
    """How many values the tensor of the file has at most."""
    return stored.numel() * (8 if kind == "1bit" else 1)


def unpacked(stored: Tensor, counts: Sequence[int], scales: Tensor, kind: Values) -> list[Tensor]:
    """The parts, float32 vectors of `counts` values each, of a tensor of the file; `scales` has one for each part.

    Raises Malformed for any tensor that `packed` doesn't make, and for values that aren't finite.
    """
    count = sum(counts)
    length = -(-count // 8) if kind == "1bit" else count
    if stored.dtype != DTYPES[kind] or tuple(stored.shape) != (length,):
        raise Malformed(f"its values are not {count} of {kind}")
    if kind == "1bit":
        bits = torch.from_numpy(np.unpackbits(stored.numpy()))
        if bool(bits[count:].any()):
            raise Malformed("bits follow after its values")
        values = bits[:count].float() * 2 - 1
    elif kind == "int8" and bool((stored < -_STEPS).any()):
        raise Malformed("an int8 value is -128")
    else:
        values = stored.float()
    if has_scale(kind):
        if scales.shape != (len(counts),) or not bool((torch.isfinite(scales) & (scales >= 0)).all()):
            raise Malformed("its scales are not finite numbers, one for each change")
        values = values * scales.repeat_interleave(torch.tensor(counts, dtype=torch.long))
    if not all_finite(values):
        raise Malformed("it holds a value that is not a number")
    return list(torch.split(values, list(counts)))


def all_finite(values: Tensor) -> bool:
    """Whether every value, on the CPU, is a finite number; NumPy finds out in a twentieth of torch's time."""
    return bool(np.isfinite(values.numpy()).all())


def _steps(values: Tensor, scale: Tensor) -> Tensor:
    """How many scales each value is, whole numbers as float32."""
    if not scale:
        return torch.zeros_like(values)
    return (values / scale.to(values.device)).round().clamp(-_STEPS, _STEPS)
