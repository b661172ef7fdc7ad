"""Whole numbers as few bytes: small ones are a byte each, which deflate's Huffman code shortens.

docs/delta-format.md and docs/bank-format.md specify it.
"""

import zlib

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

ESCAPE = 255
"""This byte adds 255 and says that the number goes on."""
_LARGEST_BLOCKS = 9  # what deflate calls its memory level
_BITS_OF_A_BYTE = 8  # in a Huffman code nothing takes less than a bit


class BadCode(ValueError):
    """The bytes are no code of what they should be."""


def signed_code(numbers: Numbers) -> bytes:
    """The code of whole numbers `(count,)` of either sign: 0, -1, 1, -2, 2 and so on count as 0, 1, 2, 3, 4."""
    return deflated(as_bytes(np.where(numbers < 0, -2 * numbers - 1, 2 * numbers)), zlib.Z_HUFFMAN_ONLY)


def signed_numbers(code: bytes | memoryview) -> Numbers:
    """The numbers `(count,)` of a code by `signed_code`.

    Raises BadCode, and nothing else, for other bytes. They are no more than eight for each byte of the code, and it
    takes no more memory than 200 bytes for each of these.
    """
    stream = np.frombuffer(inflated(memoryview(code), _BITS_OF_A_BYTE * len(code)), dtype=np.uint8)
    counted = numbers_in(stream, int(np.count_nonzero(stream != ESCAPE))).astype(np.int64)
    return (counted >> 1) ^ -(counted & 1)


def as_bytes(numbers: npt.NDArray[np.integer]) -> bytes:
    """A byte for each number, which isn't negative, and one more for every 255 of it."""
    escapes, rest = np.divmod(numbers, ESCAPE)
    if not escapes.any():
        return rest.astype(np.uint8).tobytes()
    ends = np.cumsum(escapes + 1) - 1
    found = np.full(ends[-1] + 1, ESCAPE, dtype=np.uint8)
    found[ends] = rest
    return found.tobytes()


def numbers_in(found: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.integer]:
    """The `count` numbers of such bytes; as bytes, if none needs an escape."""
    ends = np.flatnonzero(found != ESCAPE) if len(found) != count or (found == ESCAPE).any() else None
    if ends is None:
        return found
    if len(ends) != count or (len(found) and (not count or ends[-1] != len(found) - 1)):
        raise BadCode(f"it does not hold {count} numbers")
    numbers: Numbers = found[ends] + ESCAPE * (np.diff(ends, prepend=-1) - 1)
    return numbers


def deflated(content: bytes, strategy: int) -> bytes:
    """A raw deflate stream."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, _LARGEST_BLOCKS, strategy)
    return deflater.compress(content) + deflater.flush()


def inflated(stream: memoryview, most: int) -> bytes:
    """The content of a raw deflate stream that is all of `stream` and inflates to at most `most` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(stream, most + 1)
    except zlib.error as error:
        raise BadCode(f"it does not inflate: {error}") from None
    if len(content) > most or not inflater.eof or inflater.unused_data:
        raise BadCode("it does not inflate to what it should")
    return content
