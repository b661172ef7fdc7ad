"""Sets of positions as few bytes: which of `size` places are chosen. docs/bank-format.md specifies it.

The gaps between chosen places are written, the low bits as they are, the rest as bytes with a Huffman code. For random
sets this is within a few hundredths of log2 C(size, count) bits, which nothing can beat; sets with structure get
smaller. A set of more than half the places is written as its complement, and one that is shorter so as a bitmap.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fewshot_cli.formats.coding.integer_codec import ESCAPE, BadCode, as_bytes, deflated, inflated, numbers_in

__all__ = ["MOST_PLACES", "BadCode", "Positions", "code_of", "positions_in"]

Positions = npt.NDArray[np.int64]
"""`(count,)`, rising."""

MOST_PLACES = 2**48  # so that no sum of a damaged code overflows

_START = struct.Struct("<IBBQ")  # checksum of what follows, form, low bits, count
_GAPS, _COMPLEMENT, _BITMAP = range(3)
_PLACES_OF_A_BITMAP = 64  # at most, for each that is listed
_NARROW = 23  # so many low bits and a byte fit 32 bits, with 1 added


def code_of(positions: npt.NDArray[np.integer], size: int) -> bytes:
    """The shortest code of the set of `positions` `(count,)`, which rise within [0, size).

    Raises ValueError for anything else.
    """
    places = np.asarray(positions).astype(np.int64, casting="safe")
    if places.ndim != 1 or not 0 <= size <= MOST_PLACES:
        raise ValueError(f"{places.shape} positions among {size} places make no set")
    if len(places) and (places[0] < 0 or places[-1] >= size or (np.diff(places) <= 0).any()):
        raise ValueError(f"the positions do not rise within [0, {size})")
    return min(_codes(places, size), key=len)


def positions_in(code: bytes | memoryview, size: int, most: int | None = None) -> Positions:
    """The positions `(count,)` that `code` says are chosen among `size` places.

    Raises BadCode, and nothing else, for bytes that say nothing of the kind. Whatever they are, it takes time in
    proportion to their number and to `size`, and no more memory than 40 bytes for each of the positions, of which
    there are at most `size`, and 2 for each of the places. Given `most`, it raises BadCode for more positions than
    that, and for a bitmap of more than 64 places for each of them: so it takes no more memory than 200 bytes for each
    of `most`, and a byte for every 64 places.
    """
    code = memoryview(code)
    if len(code) < _START.size:
        raise BadCode("it is cut off")
    checksum, form, low_bits, count = _START.unpack_from(code)
    if checksum != zlib.crc32(code[4:]):
        raise BadCode("it does not match its checksum")
    if count > size or size > MOST_PLACES:
        raise BadCode(f"it has {count} positions for {size} places")
    if most is not None and (count > most or (form == _BITMAP and size > _PLACES_OF_A_BITMAP * count)):
        raise BadCode(f"it has {count} positions in {size} places for {most} values")
    body = code[_START.size :]
    if form == _GAPS and 2 * count <= size:
        return _from_gaps(body, low_bits, count, size)
    if form == _COMPLEMENT and 2 * count >= size:
        return _others(_from_gaps(body, low_bits, size - count, size), size)
    if form == _BITMAP and low_bits == 0:
        return _from_bitmap(body, count, size)
    raise BadCode(f"its form {form} is unknown, or not for {count} of {size} places")


def _codes(places: Positions, size: int) -> Iterator[bytes]:
    count = len(places)
    form, listed = (_GAPS, places) if 2 * count <= size else (_COMPLEMENT, _others(places, size))
    for low_bits in _low_bits(len(listed), size):
        planes, quotients = _split_gaps(listed, low_bits)
        for strategy in (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY):  # random sets only lose by a search for repeats
            yield _signed(form, low_bits, count, planes + deflated(quotients, strategy))
    if size <= _PLACES_OF_A_BITMAP * len(listed):  # not worth a try for sparser sets
        yield _signed(_BITMAP, 0, count, deflated(_bitmap(places, size), zlib.Z_DEFAULT_STRATEGY))


def _signed(form: int, low_bits: int, count: int, body: bytes) -> bytes:
    start = _START.pack(0, form, low_bits, count)[4:]
    return zlib.crc32(body, zlib.crc32(start)).to_bytes(4, "little") + start + body


def _low_bits(listed: int, size: int) -> set[int]:
    """How many low bits of each gap may be best left as they are: few for clusters, more for a random sparse set."""
    places_each = size // max(listed, 1)
    few_escapes = (places_each // (16 * ESCAPE)).bit_length()
    return {few_escapes, max(few_escapes, places_each.bit_length() - 2)}


def _most_low_bits(listed: int, size: int) -> int:
    """The limit that keeps the sum of all low bits below `size`."""
    return max(0, (size // max(listed, 1)).bit_length() - 1)


def _split_gaps(listed: Positions, low_bits: int) -> tuple[bytes, bytes]:
    """The skipped places before each listed one: a plane of bits for every low bit, and the rest as bytes."""
    skipped = np.diff(listed, prepend=-1) - 1
    planes = b"".join(np.packbits((skipped >> bit & 1).astype(np.uint8)).tobytes() for bit in range(low_bits))
    return planes, as_bytes(skipped >> low_bits)


def _from_gaps(body: memoryview, low_bits: int, listed: int, size: int) -> Positions:
    if low_bits > _most_low_bits(listed, size):
        raise BadCode(f"it has {low_bits} low bits for {listed} of {size} places")
    width = -(-listed // 8)
    planes = body[: low_bits * width]
    if len(planes) < low_bits * width:
        raise BadCode("its low bits are cut off")
    stream = inflated(body[len(planes) :], listed + (size >> low_bits) // ESCAPE)
    quotients = numbers_in(np.frombuffer(stream, dtype=np.uint8), listed)
    of_all = np.uint32 if low_bits <= _NARROW and quotients.dtype == np.uint8 else np.int64
    gaps: npt.NDArray[Any] = quotients.astype(of_all)
    gaps <<= low_bits
    for first, part in _low_parts(planes, low_bits, listed):
        wide: npt.NDArray[Any] = part.astype(of_all)
        gaps |= wide << first
    gaps[1:] += 1
    places: Positions = np.cumsum(gaps, dtype=np.int64)  # below 2^57: so many bytes of 255, and low bits within `size`
    if listed and int(places[-1]) >= size:
        raise BadCode(f"a position is beyond {size}")
    return places


def _low_parts(planes: memoryview, low_bits: int, listed: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """The low bits `(listed,)` of all gaps, eight at a time, and where these begin."""
    rows = np.frombuffer(planes, dtype=np.uint8).reshape(low_bits, -(-listed // 8))
    for first in range(0, low_bits, 8):
        part = np.zeros(rows.shape[1], dtype=np.uint64)  # eight gaps a word, a byte each: NumPy shifts words faster
        for bit, row in enumerate(rows[first : first + 8]):
            part |= np.unpackbits(row).view(np.uint64) << np.uint64(bit)
        yield first, part.view(np.uint8)[:listed]


def _others(places: Positions, size: int) -> Positions:
    """The places that are not listed."""
    chosen = np.ones(size, dtype=bool)
    chosen[places] = False
    return np.flatnonzero(chosen)


def _bitmap(places: Positions, size: int) -> bytes:
    chosen = np.zeros(size, dtype=bool)
    chosen[places] = True
    return np.packbits(chosen).tobytes()


def _from_bitmap(body: memoryview, count: int, size: int) -> Positions:
    bits = np.frombuffer(inflated(body, -(-size // 8)), dtype=np.uint8)
    chosen = np.unpackbits(bits)
    if len(bits) != -(-size // 8) or chosen[size:].any() or np.count_nonzero(chosen) != count:
        raise BadCode(f"it is no bitmap of {count} of {size} places")
    return np.flatnonzero(chosen)
