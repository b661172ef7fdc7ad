"""The head of a delta file as its tensors, and back: `head.weight`, `head.scales` where it is rounded, `head.bias`."""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from fewshot_cli.engine.adaptation import FittedHead
from fewshot_cli.engine.head.linear import Head
from fewshot_cli.engine.head.transductive import TransductiveHead
from fewshot_cli.errors import FewshotError
from fewshot_cli.formats.coding.integer_codec import BadCode, signed_code, signed_numbers
from fewshot_cli.formats.container import Malformed, taken
from fewshot_cli.formats.delta.finite import taken_floats
from fewshot_cli.formats.delta.header import Header
from fewshot_cli.formats.delta.rounding import (
    BITS,
    DTYPES,
    LEAST_SCALE,
    Values,
    all_finite,
    has_scale,
    packed,
    rounded,
    scale_of,
    unpacked,
)
from fewshot_cli.formats.delta.sections import kept_support, transductive_as_stored

Coded: TypeAlias = Literal["8bit", "9bit", "10bit", "11bit", "12bit"]
"""Whole numbers of so many bits and a sign, times a power of two that all share; a Huffman code makes them shorter."""
Plain: TypeAlias = Literal["float32", "float16", "int8"]
HeadValues: TypeAlias = Plain | Coded

_BITS: dict[HeadValues, int] = {"8bit": 8, "9bit": 9, "10bit": 10, "11bit": 11, "12bit": 12}
_PLAIN: dict[HeadValues, Values] = {"int8": "int8", "float16": "float16", "float32": "float32"}
HEAD_VALUES: tuple[HeadValues, ...] = (*_BITS, *_PLAIN)

MOST_DRIFT = 0.04
"""How far rounding the head may move the logits of a support image apart; it changes no answer.

Between two classes that is 0.01 of the probability, at most: where it is a half. Of support images it is near 1, where
a probability says nothing of how new images fare.
"""


def any_head_as_stored(head: FittedHead, values: HeadValues) -> FittedHead:
    """The head as it is read back; the support set of a transductive one is kept as float16, whatever `values` are."""
    return transductive_as_stored(head) if isinstance(head, TransductiveHead) else head_as_stored(head, values)


def head_as_stored(head: Head, values: HeadValues) -> Head:
    """The head as it is read back from a file that keeps its weights as `values`."""
    if values in _BITS:
        step = _step(head.weight, _BITS[values])
        weight = _steps(head.weight, step) * step
    else:
        weight = torch.stack([rounded(row, _PLAIN[values]) for row in head.weight])
    return Head(weight, head.bias, head.unit_norm)


def head_bytes(head: FittedHead, values: HeadValues = "int8") -> int:
    """How many bytes the tensors of the head take in the file."""
    if isinstance(head, TransductiveHead):
        return kept_support(head.features, head.labels).bytes
    bias = 4 * head.bias.numel()
    if values in _BITS:
        return len(_code(head.weight, _step(head.weight, _BITS[values]))) + 2 * len(head.bias) + bias
    scales = 2 * len(head.bias) if has_scale(_PLAIN[values]) else 0
    return head.weight.numel() * BITS[_PLAIN[values]] // 8 + scales + bias


def narrowest_head(head: Head, features: Tensor) -> HeadValues:
    """How to keep the head in the fewest bytes, so that rounding makes no difference to the features `(n, dim)`."""
    exact = head.logits(features)
    for kind in sorted(HEAD_VALUES, key=lambda kind: head_bytes(head, kind)):
        with suppress(FewshotError):  # more than float16 holds
            logits = head_as_stored(head, kind).logits(features)
            change = logits - exact
            drift = float((change.amax(1) - change.amin(1)).max())
            if drift <= MOST_DRIFT and torch.equal(logits.argmax(1), exact.argmax(1)):
                return kind
    return "float32"


def coded_head(head: Head, values: HeadValues) -> dict[str, Tensor]:
    """The tensors of the file for the head."""
    if values in _BITS:
        step = _step(head.weight, _BITS[values])
        return {
            "head.weight": torch.frombuffer(bytearray(_code(head.weight, step)), dtype=torch.uint8),
            "head.scales": torch.full((len(head.weight),), step).to(torch.bfloat16),
            "head.bias": head.bias,
        }
    kind, rows = _PLAIN[values], list(head.weight.detach().cpu())
    scales = [scale_of(row, kind) for row in rows]
    weight = packed([rounded(row, kind) for row in rows], scales, kind).reshape(head.weight.shape)
    tensors = {"head.weight": weight, "head.bias": head.bias}
    return tensors | ({"head.scales": torch.stack(scales).to(torch.bfloat16)} if has_scale(kind) else {})


def head_in(header: Header, tensors: dict[str, Tensor], kinds: Sequence[HeadValues]) -> tuple[Head, HeadValues]:
    """Takes the head out of `tensors`, which keep it as one of `kinds`."""
    way = len(header.classes)
    if len(set(header.classes)) < way:
        raise Malformed("two classes have the same name")
    stored = taken(tensors, "head.weight")
    try:
        if stored.dtype == torch.uint8 and stored.ndim == 1 and "8bit" in kinds:
            weight, kind = _decoded(stored, _scales(tensors, way))
        else:
            weight, kind = _plain(stored, way, kinds, tensors)
    except (Malformed, BadCode) as error:
        raise Malformed(f"head.weight: {error}") from None
    return Head(weight, taken_floats(tensors, "head.bias", (way,)), header.unit_norm), kind


def _plain(
    stored: Tensor, way: int, kinds: Sequence[HeadValues], tensors: dict[str, Tensor]
) -> tuple[Tensor, HeadValues]:
    kind = next((kind for kind in kinds if kind in _PLAIN and DTYPES[_PLAIN[kind]] == stored.dtype), None)
    if kind is None or stored.ndim != 2 or len(stored) != way:
        raise Malformed(f"it is no matrix of {way} rows of a type that heads have")
    scales = _scales(tensors, way) if has_scale(_PLAIN[kind]) else torch.empty(0)
    return torch.stack(unpacked(stored.reshape(-1), [stored.shape[1]] * way, scales, _PLAIN[kind])), kind


def _decoded(code: Tensor, scales: Tensor) -> tuple[Tensor, HeadValues]:
    """The weight `(way, features)` that the code and the scales `(way,)` say, and how many bits its numbers have."""
    numbers = signed_numbers(code.numpy().data)
    if not len(numbers) or len(numbers) % len(scales):
        raise Malformed(f"{len(numbers)} numbers are not {len(scales)} rows")
    bits = max(8, int(abs(numbers).max()).bit_length())
    kind = next((kind for kind, most in _BITS.items() if most == bits), None)
    weight = torch.from_numpy(numbers).float().reshape(len(scales), -1) * scales[:, None]
    if kind is None or not bool((scales >= 0).all()) or not all_finite(weight):
        raise Malformed("it holds a number that a head can't have")
    return weight, kind


def _scales(tensors: dict[str, Tensor], way: int) -> Tensor:
    scales = taken(tensors, "head.scales")
    if scales.dtype != torch.bfloat16 or tuple(scales.shape) != (way,):
        raise Malformed("head.scales are not one bfloat16 for each class")
    return scales.float()


def _code(weight: Tensor, step: float) -> bytes:
    return signed_code(_steps(weight, step).detach().cpu().reshape(-1).long().numpy())


def _steps(weight: Tensor, step: float) -> Tensor:
    """How many steps each weight is, whole numbers as float32."""
    return (weight / step).round() if step else torch.zeros_like(weight)


def _step(weight: Tensor, bits: int) -> float:
    """The power of two of which the largest weight is so many that it takes just as many bits; 0 for no weight.

    So a head that was read and is written again has the same step.
    """
    fraction, exponent = math.frexp(float(weight.detach().abs().max()) / (2**bits - 1))
    step = math.ldexp(1.0, exponent - (fraction == 0.5))
    return step if fraction and step >= LEAST_SCALE else 0.0
