"""Codes of any width as 32-bit words, in the layout that compressed-tensors calls pack-quantized.

A row's codes, made positive by adding 2^(bits-1), follow each other bit after bit, lowest first, in little-endian
32-bit words; a code may begin in one word and end in the next, so nothing is wasted at 3, 5, 6 or 7 bits, and at 2, 4
and 8 bits this is the older layout of 32/bits codes a word. A row ends with zero bits up to a whole word.
"""

import torch
from jaxtyping import Int, Int8, Int32
from torch import Tensor

from triptych.errors import ArtifactError, InputError

AT_ONCE = 1 << 20  # codes that are packed together: they take 8 bytes each, several times over, while they are


def words(columns: int, bits: int) -> int:
    """32-bit words that a row takes."""
    return -(-columns * bits // 32)


def _places(bits: int) -> tuple[Int[Tensor, " codes"], Int[Tensor, " codes"]]:
    """The word and the bit within it where each of 32 codes, which fill `bits` words, begins."""
    starts = torch.arange(32) * bits
    return starts // 32, starts % 32


def pack(codes: Int8[Tensor, "rows columns"], bits: int) -> Int32[Tensor, "rows words"]:
    """Packs signed codes along the columns.

    Raises:
        InputError: a code that `bits` bits cannot hold.
    """
    offset, (rows, columns) = 1 << (bits - 1), codes.shape
    if codes.numel() and not (int(codes.min()) >= -offset and int(codes.max()) < offset):
        raise InputError(f"Codes between {int(codes.min())} and {int(codes.max())} do not fit in {bits} bits.")
    packed = torch.empty(rows, words(columns, bits), dtype=torch.int32)
    for into, part in zip(_some(packed, columns), _some(codes, columns), strict=True):
        into.copy_(_pack(part, bits))
    return packed


def _some(matrix: Tensor, columns: int) -> tuple[Tensor, ...]:
    """The rows of a matrix, as many at a time as are worked on together."""
    return matrix.split(max(1, AT_ONCE // max(1, columns)))


def _pack(codes: Int8[Tensor, "rows columns"], bits: int) -> Int32[Tensor, "rows words"]:
    offset, (rows, columns) = 1 << (bits - 1), codes.shape
    groups = -(-columns // 32)
    wide = codes.to(torch.int64) + offset
    wide = torch.nn.functional.pad(wide, (0, groups * 32 - columns)).reshape(rows, groups, 32)
    word, bit = _places(bits)
    packed = torch.zeros(
        rows, groups, bits + 1, dtype=torch.int64
    )  # one word more takes the empty tail of the last code
    shifted = wide << bit
    packed.index_add_(2, word, shifted & 0xFFFFFFFF)
    packed.index_add_(2, word + 1, shifted >> 32)
    whole = packed[:, :, :bits].reshape(rows, groups * bits)[:, : words(columns, bits)]
    return torch.where(whole >= 1 << 31, whole - (1 << 32), whole).to(torch.int32)


def unpack(packed: Int32[Tensor, "rows words"], bits: int, columns: int) -> Int8[Tensor, "rows columns"]:
    """The codes that `pack` packed.

    Raises:
        ArtifactError: the number of words is not that of `columns` codes.
    """
    rows, have = packed.shape
    if have != words(columns, bits):
        raise ArtifactError(
            f"{columns} codes of {bits} bits take {words(columns, bits)} words a row, not {have}.",
            "The file is damaged or of another format.",
        )
    codes = torch.empty(rows, columns, dtype=torch.int8)
    for into, part in zip(_some(codes, columns), _some(packed, columns), strict=True):
        into.copy_(_unpack(part, bits, columns))
    return codes


def _unpack(packed: Int32[Tensor, "rows words"], bits: int, columns: int) -> Int8[Tensor, "rows columns"]:
    rows, have = packed.shape
    groups = -(-columns // 32)
    whole = torch.nn.functional.pad(packed.to(torch.int64) & 0xFFFFFFFF, (0, groups * bits - have)).reshape(
        rows, groups, bits
    )
    word, bit = _places(bits)
    double = whole | (torch.nn.functional.pad(whole[:, :, 1:], (0, 1)) << 32)  # each word with the next one above it
    codes = (double[:, :, word] >> bit) & ((1 << bits) - 1)
    return (codes.reshape(rows, groups * 32)[:, :columns] - (1 << (bits - 1))).to(torch.int8)
