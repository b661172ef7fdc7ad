"""Whole numbers come back from their code, and any bytes are numbers or refused."""

import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewshot_cli.formats.coding.integer_codec import BadCode, signed_code, signed_numbers


@given(st.lists(st.integers(-2000, 2000) | st.integers(-3, 3), max_size=60))
def test_numbers_come_back(numbers):
    assert signed_numbers(signed_code(np.array(numbers, dtype=np.int64))).tolist() == numbers


@given(st.binary(max_size=60))
def test_any_bytes_are_numbers_or_refused(content):
    with contextlib.suppress(BadCode):
        assert len(signed_numbers(content)) <= 8 * len(content)


@pytest.mark.parametrize("content", [b"\xff", b"\0\xff", b"\xff" * 9])
def test_a_number_that_does_not_end_is_refused(content):
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    with pytest.raises(BadCode, match="numbers"):
        signed_numbers(deflater.compress(content) + deflater.flush())


def test_small_numbers_take_few_bits():
    numbers = np.random.default_rng(0).integers(-2, 3, 20_000)
    assert 8 * len(signed_code(numbers)) < 2.6 * len(numbers)  # log2(5) is 2.32
