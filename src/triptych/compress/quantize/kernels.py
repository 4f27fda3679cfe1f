"""The two inner loops that rounding spends its time in, compiled: the search of a scale, and GPTQ inside a block of columns.

Both are a handful of operations on each number, many times over. Written as tensor operations every one of them goes
through memory; here a group, or a tile of rows, stays in the cache until it is done. Compiled once by numba and cached.
"""

from typing import no_type_check

import numba
import numpy as np
from jaxtyping import Float, Int64

TILE = 256  # rows worked on at a time: a block of 32 columns of them fits the second-level cache


@numba.njit(cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")
@no_type_check  # the shapes below are for people: what is compiled cannot be wrapped in checks
def least_error(
    weight: Float[np.ndarray, "groups width"],
    importance: Float[np.ndarray, "groups width"],
    scales: Float[np.ndarray, "groups tries"],
    zeros: Float[np.ndarray, "groups tries"],
    low: int,
    high: int,
) -> Int64[np.ndarray, " groups"]:
    """For each group the first try with the least sum_j h_j (w_j - Q(w_j))^2."""
    groups, width = weight.shape
    chosen = np.zeros(groups, np.int64)
    for g in range(groups):
        w, h = weight[g], importance[g]
        best = np.inf
        for t in range(scales.shape[1]):
            s, z = scales[g, t], zeros[g, t]
            inverse, floor, ceiling = weight.dtype.type(1) / s, low - z, high - z
            error = weight.dtype.type(0)
            for j in range(width):
                change = w[j] - min(max(np.rint(w[j] * inverse), floor), ceiling) * s
                error += change * change * h[j]
            if error < best:
                best, chosen[g] = error, t
    return chosen


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy")
@no_type_check  # the shapes below are for people: what is compiled cannot be wrapped in checks
def round_block(
    target: Float[np.ndarray, "columns rows"],
    rest: Float[np.ndarray, "columns rows"],
    L: Float[np.ndarray, "columns columns"],
    scales: Float[np.ndarray, "columns rows"],
    zeros: Float[np.ndarray, "columns rows"],
    low: int,
    high: int,
) -> None:
    """GPTQ from the last column of a block to its first.

    Args:
        target: w_j and what the columns after the block leave to be made up; becomes the codes, without zero points.
        rest: w_j; becomes w_j - q_j.
        L: the unit lower triangular factor of this block.
        scales: of each number.
        zeros: zero point of each number.
        low: the smallest code.
        high: the largest.
    """
    columns, rows = target.shape
    for first in range(0, rows, TILE):
        stop = min(first + TILE, rows)
        for j in range(columns - 1, -1, -1):
            q, left, s, z = target[j, first:stop], rest[j, first:stop], scales[j, first:stop], zeros[j, first:stop]
            for i in range(j + 1, columns):
                weight, error = L[i, j], rest[i, first:stop]
                for r in range(stop - first):
                    q[r] += weight * error[r]
            for r in range(stop - first):
                q[r] = min(max(np.rint(q[r] / s[r]), low - z[r]), high - z[r])
                left[r] -= q[r] * s[r]


@numba.njit(cache=True, fastmath={"contract"}, error_model="numpy")
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
    for first in range(0, rows, TILE):
        stop = min(first + TILE, rows)
        for j in range(columns):
            q, e, s, z = levels[j, first:stop], error[j, first:stop], scales[j, first:stop], zeros[j, first:stop]
            moved = np.empty(stop - first, levels.dtype)
            for r in range(stop - first):
                wanted = q[r] + pull[j, first + r] / (H[j, j] * s[r])
                new = min(max(np.rint(wanted), low - z[r]), high - z[r])
                moved[r] = (q[r] - new) * s[r]
                e[r] += moved[r]
                q[r] = new
            for i in range(j + 1, columns):
                weight, other = H[j, i], pull[i, first:stop]
                for r in range(stop - first):
                    other[r] += weight * moved[r]
