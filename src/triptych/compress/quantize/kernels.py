"""The inner loops that rounding spends its time in, compiled: the search of a scale, GPTQ inside a block of columns, packing.

All are a handful of operations on each number, many times over. Written as tensor operations every one of them goes
through memory; here a group, or a tile of rows, stays in the cache until it is done. Compiled once by numba and cached.
Limits are turned into the matrix's own type first: an int and a float32 make a float64, and half the speed.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import no_type_check

import numba
import numpy as np
import torch
from jaxtyping import Float, Int8, Int64, UInt32

TINY = np.finfo(np.float32).tiny
ALONE = 1 << 15  # numbers that one thread is done with before another has begun
TILE = 256  # rows worked on at a time: a block of 32 columns of them fits the second-level cache


def in_threads(work: Callable[[tuple[int, int]], None], rows: int, least: int) -> None:
    """`work` on stretches of so many rows, `least` long or more, in as many threads as PyTorch has; a stretch is (first, stop)."""
    threads = max(1, min(torch.get_num_threads(), rows // max(1, least)))
    bounds = [rows * i // threads for i in range(threads + 1)]
    others = [_pool(threads, os.getpid()).submit(work, pair) for pair in pairwise(bounds[1:])]
    work((0, bounds[1]))
    for other in others:
        other.result()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked process has none of its parent's threads
    return ThreadPoolExecutor(threads)


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
@no_type_check  # the shapes below are for people: what is compiled cannot be wrapped in checks
def best_scales(
    weight: Float[np.ndarray, "rows columns"],
    importance: Float[np.ndarray, "blocks columns"],
    shrinks: Float[np.ndarray, " tries"],
    scales: Float[np.ndarray, "rows groups"],
    zeros: Float[np.ndarray, "rows groups"],
    grid: tuple[int, int, int, bool],
    rows: tuple[int, int],
) -> None:
    """`grid.search_scale` of some rows.

    Args:
        weight: the matrix.
        importance: of each column, for every block of rows.
        shrinks: what the full range is multiplied with.
        scales: are filled, not yet rounded to what is stored.
        zeros: are filled.
        grid: columns of a group, the smallest code, the largest, and whether there are no zero points.
        rows: the first one, and the one after the last.
    """
    width, low, high, symmetric = grid
    number = weight.dtype.type
    nothing, one, least, most = number(0), number(1), number(low), number(high)
    better = one + number(1e-12)  # in float64 tries that are equally good differ by less; in float32 it is one
    for r in range(rows[0], rows[1]):
        known = importance[r * len(importance) // len(weight)]
        for g in range(scales.shape[1]):
            w, h = weight[r, g * width : (g + 1) * width], known[g * width : (g + 1) * width]
            bottom, top = nothing, nothing
            for j in range(len(w)):
                bottom, top = min(bottom, w[j]), max(top, w[j])
            span = max(-bottom, top) / most if symmetric else (top - bottom) / (most - least)
            span = span if span > TINY else one  # a group of zeros
            z = nothing if symmetric else min(max(np.rint(least - bottom / span), least), most)
            floor, ceiling = least - z, most - z
            gained, scales[r, g], zeros[r, g] = nothing, span, z
            for shrink in shrinks:
                inverse = one / (span * shrink)
                product, size = nothing, nothing
                for j in range(len(w)):
                    code = min(max(np.rint(w[j] * inverse), floor), ceiling)
                    weighted = h[j] * code
                    product += w[j] * weighted
                    size += code * weighted
                scale = product / size
                if product * scale > gained * better:
                    gained, scales[r, g] = product * scale, scale


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
@no_type_check  # the shapes below are for people: what is compiled cannot be wrapped in checks
def round_block(
    target: Float[np.ndarray, "columns rows"],
    rest: Float[np.ndarray, "columns rows"],
    L: Float[np.ndarray, "columns columns"],
    scales: Float[np.ndarray, "groups rows"],
    zeros: Float[np.ndarray, "groups rows"],
    group: Int64[np.ndarray, " columns"],
    columns: tuple[int, int],
    levels: tuple[int, int],
    rows: tuple[int, int],
) -> None:
    """GPTQ from the last column of a block to its first.

    Args:
        target: w_j and what the columns after the block leave to be made up; becomes the codes, without zero points.
        rest: w_j; becomes w_j - q_j.
        L: the unit lower triangular factor.
        scales: of each group.
        zeros: zero point of each group.
        group: of each column.
        columns: the block's first one, and the one after its last.
        levels: the smallest code and the largest.
        rows: the first one that is worked on, and the one after the last.
    """
    least, most = target.dtype.type(levels[0]), target.dtype.type(levels[1])
    for first in range(rows[0], rows[1], TILE):
        stop = min(first + TILE, rows[1])
        for j in range(columns[1] - 1, columns[0] - 1, -1):
            q, left = target[j, first:stop], rest[j, first:stop]
            s, z = scales[group[j], first:stop], zeros[group[j], first:stop]
            for i in range(j + 1, columns[1]):
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
