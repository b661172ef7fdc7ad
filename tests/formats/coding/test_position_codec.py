import contextlib
import math
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from fewshot_cli.formats.coding.position_codec import MOST_PLACES, BadCode, Positions, code_of, positions_in

SIZE = 2_000_000
GAPS, COMPLEMENT, BITMAP = 0, 1, 2


def random_set(size: int, density: float, seed: int = 0) -> Positions:
    return np.flatnonzero(np.random.default_rng(seed).random(size) < density)


def clusters(size: int, density: float, seed: int = 0) -> Positions:
    """Runs of a thousand places each."""
    return np.flatnonzero(np.repeat(np.random.default_rng(seed).random(-(-size // 1000)) < density, 1000)[:size])


def bound(count: int, size: int) -> float:
    """log2 C(size, count) in bytes."""
    return float(gammaln(size + 1) - gammaln(count + 1) - gammaln(size - count + 1)) / math.log(2) / 8


def deflated(content: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflater.compress(content) + deflater.flush()


def signed(form: int, low_bits: int, count: int, body: bytes) -> bytes:
    """A code with the right checksum, as the specification says."""
    rest = struct.pack("<BBQ", form, low_bits, count) + body
    return struct.pack("<I", zlib.crc32(rest)) + rest


def check_any_answer(code: bytes, size: int) -> Positions | None:
    """What the code says, if anything: rising positions within [0, size), and no other error than BadCode."""
    try:
        positions = positions_in(code, size)
    except BadCode:
        return None
    assert positions.dtype == np.int64 and positions.ndim == 1
    assert (np.diff(positions) > 0).all()
    assert not len(positions) or (positions[0] >= 0 and positions[-1] < size)
    return positions


# --- what is coded is decoded ----------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_any_set_comes_back(data):
    size = data.draw(st.one_of(st.integers(0, 40), st.integers(0, 5000), st.just(MOST_PLACES)))
    drawn = data.draw(st.sets(st.integers(0, size - 1), max_size=60)) if size else ()
    positions = np.array(sorted(drawn), dtype=np.int64)
    if size <= 5000 and data.draw(st.booleans()):
        positions = np.setdiff1d(np.arange(size), positions)
    code = code_of(positions, size)
    assert np.array_equal(positions_in(code, size), positions)
    assert np.array_equal(positions_in(memoryview(code), size), positions)


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 254, 255, 256, 257, 510, 511, 70_000])
def test_empty_full_and_single_sets_come_back(size):
    for positions in (
        np.arange(0),
        np.arange(size),
        *(np.array([i]) for i in {0, size // 2, size - 1} if 0 <= i < size),
    ):
        code = code_of(positions, size)
        assert np.array_equal(positions_in(code, size), positions)
        assert len(code) <= 14 + 2 * 17  # a byte for each low bit


@pytest.mark.parametrize("gap", [253, 254, 255, 256, 509, 510, 511, 4079, 4080, 4081, 65_535, 2**20, 2**40])
def test_gaps_at_and_beyond_a_byte_come_back(gap):
    for positions in (np.arange(1, 20) * gap, np.array([0, 1, 2, gap, gap + 1, 3 * gap])):
        assert np.array_equal(
            positions_in(code_of(positions, int(positions[-1]) + 1), int(positions[-1]) + 1), positions
        )


@pytest.mark.parametrize("density", [1e-5, 1e-3, 0.03, 0.2, 0.5, 0.8, 0.999])
@pytest.mark.parametrize("draw", [random_set, clusters])
def test_large_sets_come_back(draw, density):
    positions = draw(SIZE, density)
    assert np.array_equal(positions_in(code_of(positions, SIZE), SIZE), positions)


def test_all_forms_are_used():
    forms = {code_of(random_set(10_000, density), 10_000)[4] for density in (0.1, 0.5, 0.9)}
    assert forms == {GAPS, COMPLEMENT, BITMAP}
    low_bits = {code_of(random_set(SIZE, density), SIZE)[5] for density in (0.1, 0.001)}
    assert 0 in low_bits and len(low_bits) == 2


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64])
def test_positions_may_be_any_integers(dtype):
    assert code_of(np.array([1, 5, 100], dtype=dtype), 200) == code_of(np.array([1, 5, 100]), 200)


@pytest.mark.parametrize("positions", [[3, 3], [4, 3], [-1, 3], [3, 10], [[1, 2]]])
def test_what_is_no_set_is_not_coded(positions):
    with pytest.raises(ValueError):
        code_of(np.array(positions), 10)


@pytest.mark.parametrize("size", [-1, MOST_PLACES + 1])
def test_no_set_has_a_negative_or_vast_number_of_places(size):
    with pytest.raises(ValueError):
        code_of(np.arange(0), size)


# --- how short -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "most"),
    [
        (0.001, 1.03),
        (0.01, 1.015),
        (0.03, 1.015),
        (0.1, 1.015),
        (0.3, 1.015),
        (0.5, 1.001),
        (0.7, 1.015),
        (0.99, 1.015),
    ],
)
def test_random_sets_take_little_more_than_the_bound(density, most):
    positions = random_set(SIZE, density)
    assert len(code_of(positions, SIZE)) <= most * bound(len(positions), SIZE)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_sets_with_structure_take_a_small_part_of_the_bound(density):
    positions = clusters(SIZE, density)
    assert len(code_of(positions, SIZE)) < 0.05 * bound(len(positions), SIZE)


# --- codes that are none ---------------------------------------------------------------------------------------------

SETS = {
    "gaps": (random_set(3000, 0.1), 3000),
    "low bits": (random_set(200_000, 0.001), 200_000),
    "complement": (random_set(3000, 0.95), 3000),
    "bitmap": (random_set(3000, 0.5), 3000),
    "empty": (np.arange(0), 100),
}
every_form = pytest.mark.parametrize(("positions", "size"), SETS.values(), ids=SETS)


@every_form
def test_a_code_cut_anywhere_is_refused(positions, size):
    code = code_of(positions, size)
    for length in range(len(code)):
        with pytest.raises(BadCode):
            positions_in(code[:length], size)


@every_form
def test_a_code_with_more_at_its_end_is_refused(positions, size):
    code = code_of(positions, size)
    for more in (b"\0", code):
        with pytest.raises(BadCode):
            positions_in(code + more, size)


@every_form
def test_a_code_with_any_bit_flipped_is_refused(positions, size):
    code = code_of(positions, size)
    for bit in range(8 * len(code)):
        flipped = bytearray(code)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadCode):
            positions_in(bytes(flipped), size)


@every_form
def test_a_flipped_bit_under_the_right_checksum_gives_a_set_or_nothing(positions, size):
    code = code_of(positions, size)
    for bit in range(8 * len(code) - 32):
        rest = bytearray(code[4:])
        rest[bit // 8] ^= 1 << bit % 8
        check_any_answer(struct.pack("<I", zlib.crc32(rest)) + rest, size)


@given(st.binary(max_size=60), st.integers(0, 3), st.integers(0, 80), st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_set_or_nothing(body, form, low_bits, count, size):
    check_any_answer(body, size)
    check_any_answer(signed(form, low_bits, count, body), size)
    check_any_answer(signed(form, low_bits, count, deflated(body)), size)
    found = check_any_answer(signed(form, low_bits, count, body[:low_bits] + deflated(body[low_bits:])), size)
    assert found is None or len(found) == count


def as_specified(code: bytes, size: int) -> list[int]:
    """docs/bank-format.md, read word by word."""
    _, form, low, count = struct.unpack_from("<IBBQ", code)
    body = code[14:]
    if form == BITMAP:
        content = zlib.decompress(body, -15)
        return [place for place in range(size) if content[place // 8] >> (7 - place % 8) & 1]
    listed = count if form == GAPS else size - count
    width = (listed + 7) // 8
    stream = list(zlib.decompress(body[low * width :], -15))
    places, place = set(), -1
    for i in range(listed):
        rest = 0
        while stream[0] == 255:
            rest += stream.pop(0)
        gap = rest + stream.pop(0) << low
        gap += sum((body[bit * width + i // 8] >> (7 - i % 8) & 1) << bit for bit in range(low))
        place += gap + 1
        places.add(place)
    assert not stream
    return sorted(places if form == GAPS else set(range(size)) - places)


@every_form
def test_a_reader_that_follows_the_specification_finds_the_set(positions, size):
    assert as_specified(code_of(positions, size), size) == positions.tolist()


def test_the_specification_by_hand():
    """Positions 3, 4 and 4 + 1 + 300 skip 3, 0 and 300 places; with one low bit they are 1, 0, 0 and 1, 0, 150."""
    positions = [3, 4, 305]
    assert positions_in(signed(GAPS, 0, 3, deflated(bytes([3, 0, 255, 45]))), 306).tolist() == positions
    assert (
        positions_in(signed(GAPS, 1, 3, bytes([0b1000_0000]) + deflated(bytes([1, 0, 150]))), 306).tolist() == positions
    )
    assert positions_in(signed(COMPLEMENT, 0, 4, deflated(bytes([3]))), 5).tolist() == [0, 1, 2, 4]
    assert positions_in(signed(BITMAP, 0, 3, deflated(bytes([0b1010_0000, 0b0100_0000]))), 10).tolist() == [0, 2, 9]


MALICIOUS = {
    "a count beyond the places": signed(GAPS, 0, 101, deflated(bytes(101))),
    "a gigantic count": signed(GAPS, 0, 2**64 - 1, deflated(b"")),
    "more than half the places as gaps": signed(GAPS, 0, 60, deflated(bytes(60))),
    "less than half the places as a complement": signed(COMPLEMENT, 0, 40, deflated(bytes(60))),
    "an unknown form": signed(3, 0, 0, deflated(b"")),
    "a position beyond the end": signed(GAPS, 0, 2, deflated(bytes([90, 9]))),
    "a position far beyond the end": signed(GAPS, 0, 2, deflated(bytes([90, 255, 255, 9]))),
    "low bits beyond the end": signed(GAPS, 5, 2, bytes([0xC0] * 5) + deflated(bytes([2, 2]))),
    "more low bits than places": signed(GAPS, 7, 1, bytes(7) + deflated(bytes(1))),
    "255 low bits": signed(GAPS, 255, 0, deflated(b"")),
    "fewer gaps": signed(GAPS, 0, 3, deflated(bytes(2))),
    "more gaps": signed(GAPS, 0, 3, deflated(bytes(4))),
    "an escape at the end": signed(GAPS, 0, 1, deflated(bytes([1, 255]))),
    "no stream": signed(GAPS, 0, 0, b""),
    "two streams": signed(GAPS, 0, 1, deflated(bytes(1)) + deflated(b"")),
    "a stream that is none": signed(GAPS, 0, 1, b"\xff" * 20),
    "low bits that are cut off": signed(GAPS, 3, 8, bytes(2)),
    "a bitmap of another count": signed(BITMAP, 0, 3, deflated(bytes([255]) + bytes(12))),
    "a bitmap that is too short": signed(BITMAP, 0, 8, deflated(bytes([255]) + bytes(11))),
    "a bitmap that is too long": signed(BITMAP, 0, 8, deflated(bytes([255]) + bytes(13))),
    "a bitmap with places beyond the end": signed(BITMAP, 0, 1, deflated(bytes(12) + bytes([1]))),
    "a bitmap with low bits": signed(BITMAP, 1, 8, deflated(bytes([255]) + bytes(12))),
}


@pytest.mark.parametrize("code", MALICIOUS.values(), ids=MALICIOUS)
def test_a_malicious_code_is_refused(code):
    with pytest.raises(BadCode):
        positions_in(code, 100)


def test_a_vast_number_of_places_is_refused():
    with pytest.raises(BadCode):
        positions_in(code_of(np.arange(0), 100), MOST_PLACES + 1)


# --- how much memory -------------------------------------------------------------------------------------------------


def peak_of_decoding(code: bytes, size: int) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(BadCode):
            positions_in(code, size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("density", [0, 1e-4, 0.01, 0.1, 0.45, 0.5, 0.55, 0.9, 1])
def test_decoding_takes_no_more_memory_than_it_says(density):
    positions = random_set(SIZE, density)
    assert peak_of_decoding(code_of(positions, SIZE), SIZE) <= 40 * len(positions) + 2 * SIZE + 10_000


BOMBS = {
    "gaps": signed(GAPS, 0, 10, deflated(bytes(10**8))),
    "escapes": signed(GAPS, 0, 10, deflated(b"\xff" * 10**8)),
    "gaps of half": signed(GAPS, 0, SIZE // 2, deflated(b"\xff" * 10**8)),
    "as many escapes as may be": signed(GAPS, 0, SIZE // 2, deflated(b"\xff" * (SIZE // 2 + SIZE // 255))),
    "a bitmap": signed(BITMAP, 0, 10, deflated(bytes(10**8))),
    "a complement": signed(COMPLEMENT, 0, SIZE - 10, deflated(bytes(10**8))),
    "a promise of half": signed(GAPS, 0, SIZE // 2, deflated(b"")),
}


@pytest.mark.parametrize("code", BOMBS.values(), ids=BOMBS)
def test_a_bomb_takes_neither_memory_nor_time(code):
    start = time.process_time()
    with pytest.raises(BadCode):
        positions_in(code, SIZE)
    assert time.process_time() - start < 2
    count = struct.unpack_from("<Q", code, 6)[0]
    assert peak_of_decoding(code, SIZE) <= 40 * count + 2 * SIZE + 10_000


@pytest.mark.slow
@pytest.mark.parametrize("size", [2000, 2**32])
@pytest.mark.parametrize("low", [0, 3])
@pytest.mark.parametrize("form", [GAPS, COMPLEMENT, BITMAP])
@pytest.mark.parametrize("stream", [b"\0" * 10**8, b"\xff" * 10**8, b"\1" * 30])
def test_no_code_of_few_positions_takes_much_memory(form, low, stream, size):
    """Given how many there can be at most, whatever the number of places."""
    width = low * 4
    code = signed(form, low, 30, bytes(width) + deflated(stream))
    tracemalloc.start()
    try:
        with contextlib.suppress(BadCode):
            positions_in(code, size, 30)
        assert tracemalloc.get_traced_memory()[1] < 200 * 30 + size / 64 + len(code) + 100_000
    finally:
        tracemalloc.stop()


def test_more_positions_than_there_can_be_are_refused():
    code = code_of(np.arange(0, 1000, 10), 1000)
    assert len(positions_in(code, 1000, 100)) == 100
    with pytest.raises(BadCode, match="100 positions"):
        positions_in(code, 1000, 99)
