"""Packed codes: round trips, the exact words, and damage."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.compress.quantize.pack import pack, unpack, words
from triptych.errors import ArtifactError, InputError


@st.composite
def matrices(draw):
    bits = draw(st.integers(2, 8))
    rows, columns = draw(st.integers(0, 4)), draw(st.integers(0, 70))
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    seed = draw(st.integers(0, 2**31))
    values = torch.randint(
        low, high + 1, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int8
    )
    return bits, values


@given(matrices())
@settings(deadline=None)  # the first call may compile
def test_round_trip(case):
    bits, values = case
    packed = pack(values, bits)
    assert packed.dtype == torch.int32
    assert packed.shape == (values.shape[0], words(values.shape[1], bits))
    assert torch.equal(unpack(packed, bits, values.shape[1]), values)


@given(matrices())
@settings(deadline=None)  # the first call may compile
def test_words_hold_the_codes_bit_after_bit(case):
    """The slow twin: one long binary number a row."""
    bits, values = case
    for row, packed in zip(values.tolist(), pack(values, bits).tolist(), strict=True):
        number = sum((code + 2 ** (bits - 1)) << (bits * place) for place, code in enumerate(row))
        assert sum((word % 2**32) << (32 * place) for place, word in enumerate(packed)) == number


def test_extremes_and_the_documented_layout():
    values = torch.tensor([[-8, 7, 0, 1, 2, 3, 4, 5, -1]], dtype=torch.int8)
    assert pack(values, 4).tolist() == [[0xDCBA98F0 - 2**32, 0x7]]
    assert pack(torch.full((1, 1), 127, dtype=torch.int8), 8).tolist() == [[255]]


def test_wide_codes_and_missing_words_are_refused():
    with pytest.raises(InputError, match="Codes between 8 and 8 do not fit in 4 bits"):
        pack(torch.full((1, 3), 8, dtype=torch.int8), 4)
    with pytest.raises(ArtifactError, match="9 codes of 4 bits take 2 words a row, not 1"):
        unpack(torch.zeros(1, 1, dtype=torch.int32), 4, 9)
