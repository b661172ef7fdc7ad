"""One change of all weights and the gates of experts on it, as a bank's file has them. docs/bank-format.md says how."""

from collections.abc import Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.coding.position_codec import BadCode, code_of, positions_in
from fewshot_cli.formats.container import Malformed

Values: TypeAlias = Literal["float32", "float16"]

DTYPES: dict[Values, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


def coded_change(delta: Tensor, gates: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the file by name: the delta `(size,)` as `dtype`, and gates `(experts, size)` in [0, 1].

    Raises FewshotError where meta-tuning went wrong, or float16 can't hold the delta.
    """
    check_finite("the delta", delta)
    delta = delta.detach().cpu()
    if gates is None:
        yield from _coded_dense(_rounded(delta, dtype))
        return
    is_open = torch.zeros(len(delta), dtype=torch.bool)
    for m, row in enumerate(gates):
        of_expert = _half(row.detach().cpu()) if dtype == torch.float16 else row.detach().cpu()
        is_open |= of_expert > 0
        yield from _coded_gates(m, of_expert)
    yield "delta/values", _rounded(delta[is_open], dtype)


def read_change(tensors: dict[str, Tensor], size: int, experts: int) -> tuple[Tensor, Tensor | None]:
    """Takes delta `(size,)` and gates `(experts, size)` out of the file's `tensors`; a size of 0 has none there.

    Raises Malformed where they are none of these sizes, and MemoryError where there is no room for them.
    """
    if not size:
        return torch.zeros(0), None
    if not experts:
        return _dense_delta(tensors, size), None
    gates, is_open = _gates(tensors, experts, size)
    delta = _zeros(size)
    delta[is_open] = _finite(tensors, "delta/values", int(is_open.count_nonzero()))
    return delta, gates


def check_finite(name: str, values: Tensor) -> None:
    """Raises FewshotError where what meta-tuning learned holds NaN or infinity."""
    if not bool(torch.isfinite(values).all()):
        raise FewshotError(
            f"Meta-tuning diverged: {name} holds a value that is not a number.", "Try a lower learning rate."
        )


# --- writing ---------------------------------------------------------------------------------------------------------


def _half(gates: Tensor) -> Tensor:
    """Gates rounded to what float16 holds: one next to 0 or 1 is closed, or quite open."""
    return gates.half().float() if gates.dtype == torch.float32 else gates


def _coded_gates(m: int, gates: Tensor) -> Iterator[tuple[str, Tensor]]:
    if gates.dtype != torch.float32:
        raise ValueError(f"gates are {gates.dtype}")
    if not bool(((gates >= 0) & (gates <= 1)).all()):  # NaN is neither
        raise FewshotError(f"Expert {m} has a gate outside [0, 1].", "Meta-tuning diverged; try a lower learning rate.")
    positions = gates.nonzero().squeeze(1)
    opened = gates[positions]
    between = (opened < 1).nonzero().squeeze(1)
    values = opened[between]
    half = values.half()
    yield f"gates/{m}/open", _code(positions, len(gates))
    yield f"gates/{m}/between", _code(between, len(opened))
    yield f"gates/{m}/values", half if torch.equal(half.float(), values) else values


def _coded_dense(delta: Tensor) -> Iterator[tuple[str, Tensor]]:
    positions = delta.nonzero().squeeze(1)
    code = _code(positions, len(delta))
    if len(code) + len(positions) * delta.element_size() < len(delta) * delta.element_size():
        yield "delta/positions", code
        delta = delta[positions]
    yield "delta/values", delta


def _code(positions: Tensor, size: int) -> Tensor:
    return torch.frombuffer(bytearray(code_of(positions.numpy(), size)), dtype=torch.uint8)


def _rounded(delta: Tensor, dtype: torch.dtype) -> Tensor:
    if delta.dtype != torch.float32:
        raise ValueError(f"the delta is {delta.dtype}")
    rounded = delta.to(dtype)
    if not bool(torch.isfinite(rounded).all()):
        raise FewshotError(
            f"A change of {float(delta.abs().max()):.3g} is more than float16 holds.", "Store the bank as float32."
        )
    return rounded


# --- reading ---------------------------------------------------------------------------------------------------------


def _gates(tensors: dict[str, Tensor], experts: int, size: int) -> tuple[Tensor, Tensor]:
    """Takes the gates `(experts, size)` out of `tensors`, and gives where any of them is open `(size,)`."""
    _check_codes(tensors, experts)
    gates = _zeros(experts, size)
    is_open = torch.zeros(size, dtype=torch.bool)
    for m, row in enumerate(gates):
        positions = _positions(tensors, f"gates/{m}/open", size)
        between = positions[_positions(tensors, f"gates/{m}/between", len(positions))]
        values = _finite(tensors, f"gates/{m}/values", len(between))
        if bool(((values <= 0) | (values >= 1)).any()):
            raise Malformed(f"gates/{m}/values holds a value that is not between 0 and 1")
        row[positions] = 1.0
        row[between] = values
        is_open[positions] = True
    return gates, is_open


def _check_codes(tensors: dict[str, Tensor], experts: int) -> None:
    """Before memory is taken for all of them."""
    for m in range(experts):
        if f"gates/{m}/open" not in tensors:
            raise Malformed(f"gates/{m}/open is missing")


def _dense_delta(tensors: dict[str, Tensor], size: int) -> Tensor:
    if "delta/positions" not in tensors:
        return _finite(tensors, "delta/values", size)
    positions = _positions(tensors, "delta/positions", size)
    values = _finite(tensors, "delta/values", len(positions))
    return _zeros(size).index_copy_(0, positions, values)


def _zeros(*shape: int) -> Tensor:
    try:
        return torch.zeros(shape)
    except RuntimeError:  # torch has no error of its own for memory that it can't get
        raise MemoryError from None


def _positions(tensors: dict[str, Tensor], name: str, size: int) -> Tensor:
    code = tensors.pop(name, None)
    if code is None or code.dtype != torch.uint8 or code.ndim != 1:
        raise Malformed(f"{name} is missing, or not bytes")
    try:
        return torch.from_numpy(positions_in(code.numpy().data, size))
    except BadCode as error:
        raise Malformed(f"{name} is no set of positions: {error}") from None


def _finite(tensors: dict[str, Tensor], name: str, count: int) -> Tensor:
    """Takes `count` values out of `tensors`, which may be stored as float16, as float32."""
    values = tensors.pop(name, None)
    if values is None or values.dtype not in DTYPES.values() or tuple(values.shape) != (count,):
        raise Malformed(f"{name} is not float32 or float16 of shape ({count},)")
    if not bool(torch.isfinite(values).all()):
        raise Malformed(f"{name} holds a value that is not a number")
    return values.float()
