"""The inner loops that rounding spends its time in, compiled: the search of a scale, GPTQ inside a block of columns, packing.

All are a handful of operations on each number, many times over. Written as tensor operations every one of them goes
through memory; here a group, or a tile of rows, stays in the cache until it is done. Compiled once by numba and cached.
Limits are turned into the matrix's own type first: an int and a float32 make a float64, and half the speed.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int8, Int64, UInt32

TILE = 256  # rows worked on at a time: a block of 32 columns of them fits the second-level cache


def in_threads(work: Callable[[slice], None], count: int, least: int = 1024) -> None:
    """`work` on stretches of `range(count)`, `least` long or more, in as many threads as PyTorch has: for independent rows."""
    threads = min(torch.get_num_threads(), count // least)
    if threads < 2:
        work(slice(0, count))
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(work, slice(*pair)) for pair in pairwise(bounds[1:])]
        work(slice(0, bounds[1]))
    for other in others:
        other.result()


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
@no_type_check  # the shapes below are for people: what is compiled cannot be wrapped in checks
def least_error(
    weight: Float[np.ndarray, "groups width"],
    importance: Float[np.ndarray, "groups width"],
    scales: Float[np.ndarray, "groups tries"],
    zeros: Float[np.ndarray, "groups tries"],
    chosen: Int64[np.ndarray, " groups"],
    low: int,
    high: int,
) -> None:
    """For each group the first try with the least sum_j h_j (w_j - Q(w_j))^2; its number goes into `chosen`."""
    groups, width = weight.shape
    one, least, most = weight.dtype.type(1), weight.dtype.type(low), weight.dtype.type(high)
    for g in range(groups):
        w, h = weight[g], importance[g]
        best, chosen[g] = np.inf, 0
        for t in range(scales.shape[1]):
            s, z = scales[g, t], zeros[g, t]
            inverse, floor, ceiling = one / s, least - z, most - z
            error = weight.dtype.type(0)
            for j in range(width):
                change = w[j] - min(max(np.rint(w[j] * inverse), floor), ceiling) * s
                error += change * change * h[j]
            if error < best:
                best, chosen[g] = error, t


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
@no_type_check  # the shapes below are for people: what is compiled cannot be wrapped in checks
def round_block(
    target: Float[np.ndarray, "columns rows"],
    rest: Float[np.ndarray, "columns rows"],
    L: Float[np.ndarray, "columns columns"],
    scales: Float[np.ndarray, "groups rows"],
    zeros: Float[np.ndarray, "groups rows"],
    group: Int64[np.ndarray, " columns"],
    low: int,
    high: int,
) -> None:
    """GPTQ from the last column of a block to its first.

    Args:
        target: w_j and what the columns after the block leave to be made up; becomes the codes, without zero points.
        rest: w_j; becomes w_j - q_j.
        L: the unit lower triangular factor of this block.
        scales: of each group.
        zeros: zero point of each group.
        group: of each column.
        low: the smallest code.
        high: the largest.
    """
    columns, rows = target.shape
    least, most = target.dtype.type(low), target.dtype.type(high)
    for first in range(0, rows, TILE):
        stop = min(first + TILE, rows)
        for j in range(columns - 1, -1, -1):
            q, left = target[j, first:stop], rest[j, first:stop]
            s, z = scales[group[j], first:stop], zeros[group[j], first:stop]
            for i in range(j + 1, columns):
                weight, error = L[i, j], rest[i, first:stop]
                for r in range(stop - first):
                    q[r] += weight * error[r]
            for r in range(stop - first):
                q[r] = min(max(np.rint(q[r] / s[r]), least - z[r]), most - z[r])
                left[r] -= q[r] * s[r]


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
@no_type_check  # the shapes below are for people: what is compiled cannot be wrapped in checks
def descend_block(
    levels: Float[np.ndarray, "columns rows"],
    error: Float[np.ndarray, "columns rows"],
    pull: Float[np.ndarray, "columns rows"],
    H: Float[np.ndarray, "columns columns"],
    scales: Float[np.ndarray, "columns rows"],
    zeros: Float[np.ndarray, "columns rows"],
    low: int,
    high: int,
) -> None:
    """Each column of a block decided again, given all others, from the first to the last.

    Args:
        levels: codes without their zero points; become the new ones.
        error: w - q; becomes that of the new ones.
        pull: H times the error of all columns; kept up to date within the block.
        H: the second moment of this block.
        scales: of each number.
        zeros: zero point of each number.
        low: the smallest code.
        high: the largest.
    """
    columns, rows = levels.shape
    least, most = levels.dtype.type(low), levels.dtype.type(high)
    for first in range(0, rows, TILE):
        stop = min(first + TILE, rows)
        for j in range(columns):
            q, e, s, z = levels[j, first:stop], error[j, first:stop], scales[j, first:stop], zeros[j, first:stop]
            moved = np.empty(stop - first, levels.dtype)
            for r in range(stop - first):
                wanted = q[r] + pull[j, first + r] / (H[j, j] * s[r])
                new = min(max(np.rint(wanted), least - z[r]), most - z[r])
                moved[r] = (q[r] - new) * s[r]
                e[r] += moved[r]
                q[r] = new
            for i in range(j + 1, columns):
                weight, other = H[j, i], pull[i, first:stop]
                for r in range(stop - first):
                    other[r] += weight * moved[r]


@numba.njit(cache=True, nogil=True)
@no_type_check
def pack_rows(codes: Int8[np.ndarray, "rows columns"], bits: int, packed: UInt32[np.ndarray, "rows words"]) -> bool:
    """Puts codes made positive bit after bit into words; says whether `bits` bits hold every one of them."""
    offset, fits = 1 << (bits - 1), True
    for r in range(codes.shape[0]):
        held, filled, word = np.uint64(0), 0, 0
        for c in range(codes.shape[1]):
            code = np.int64(codes[r, c]) + offset
            fits &= 0 <= code < 2 * offset
            held |= np.uint64(code) << np.uint64(filled)
            filled += bits
            if filled >= 32:
                packed[r, word] = np.uint32(held & np.uint64(0xFFFFFFFF))
                held, filled, word = held >> np.uint64(32), filled - 32, word + 1
        if filled:
            packed[r, word] = np.uint32(held)
    return fits


@numba.njit(cache=True, nogil=True)
@no_type_check
def unpack_rows(packed: UInt32[np.ndarray, "rows words"], bits: int, codes: Int8[np.ndarray, "rows columns"]) -> None:
    """The inverse of `pack_rows`."""
    offset, mask = 1 << (bits - 1), np.uint64((1 << bits) - 1)
    for r in range(codes.shape[0]):
        held, filled, word = np.uint64(0), 0, 0
        for c in range(codes.shape[1]):
            if filled < bits:
                held |= np.uint64(packed[r, word]) << np.uint64(filled)
                filled, word = filled + 32, word + 1
            codes[r, c] = np.int8(np.int64(held & mask) - offset)
            held, filled = held >> np.uint64(bits), filled - bits
