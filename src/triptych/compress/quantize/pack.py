"""Codes of any width as 32-bit words, in the layout that compressed-tensors calls pack-quantized.

A row's codes, made positive by adding 2^(bits-1), follow each other bit after bit, lowest first, in little-endian
32-bit words; a code may begin in one word and end in the next, so nothing is wasted at 3, 5, 6 or 7 bits, and at 2, 4
and 8 bits this is the older layout of 32/bits codes a word. A row ends with zero bits up to a whole word.
"""

import numpy as np
import torch
from jaxtyping import Int8, Int32
from torch import Tensor

from triptych.errors import ArtifactError, InputError


def words(columns: int, bits: int) -> int:
    """32-bit words that a row takes."""
    return -(-columns * bits // 32)


def pack(codes: Int8[Tensor, "rows columns"], bits: int) -> Int32[Tensor, "rows words"]:
    """Packs signed codes along the columns.

    Raises:
        InputError: a code that `bits` bits cannot hold.
    """
    from triptych.compress.quantize.kernels import pack_rows

    packed = torch.empty(len(codes), words(codes.shape[1], bits), dtype=torch.int32)
    if not pack_rows(codes.contiguous().numpy(), bits, packed.numpy().view(np.uint32)):
        raise InputError(f"Codes between {int(codes.min())} and {int(codes.max())} do not fit in {bits} bits.")
    return packed


def unpack(packed: Int32[Tensor, "rows words"], bits: int, columns: int) -> Int8[Tensor, "rows columns"]:
    """The codes that `pack` packed.

    Raises:
        ArtifactError: the number of words is not that of `columns` codes.
    """
    from triptych.compress.quantize.kernels import unpack_rows

    rows, have = packed.shape
    if have != words(columns, bits):
        raise ArtifactError(
            f"{columns} codes of {bits} bits take {words(columns, bits)} words a row, not {have}.",
            "The file is damaged or of another format.",
        )
    codes = torch.empty(rows, columns, dtype=torch.int8)
    unpack_rows(packed.contiguous().numpy().view(np.uint32), bits, codes.numpy())
    return codes
