"""The integer grid a weight matrix is rounded to, and the codes that result.

A grid has 2^bits levels, one scale a group of `group` neighbouring columns of a row (or one a row), and, when it is not
symmetric, one zero point beside each scale:

    restored = (code - zero) * scale,        code in [-2^(bits-1), 2^(bits-1) - 1]

Codes are signed in memory for every width; only `pack` and the engines know of other encodings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float, Int, Int8
from pydantic import Field
from torch import Tensor

from triptych.errors import InputError
from triptych.structure import Settings

# How many levels beyond the last one the largest weight of a group lies when a scale is tried; two bits take as many as
# eight, a few. More than four times all levels is never tried.
OVERSHOOTS = (*(-0.4 + 0.25 * i for i in range(12)), 2.7, 3.2, 3.7, 4.5, 5.5, 7, 9, 12, 16, 21, 28, 37, 50)


class Grid(Settings):
    """The levels that a weight may take.

    Attributes:
        bits: width of a code.
        group: columns that share a scale; None for one scale a row. The last group is shorter where it does not divide
            the columns.
        symmetric: no zero point, so zero is a level and the codes of w and -w differ in sign alone.
        mirrored: scales may be negative: the level -2^(bits-1), which has no counterpart, then stands on the side of each
            group that needs it more. A sign costs no bit and is worth 0.5 dB at 2 to 4 bits (normal weights, groups of 64);
            readers multiply by it as by any scale. For symmetric grids alone.
        scales: the type that scales are exact in. Readers turn them into the type that a model computes in.
        number: "float" where codes are not levels but the bits of FP8 numbers (`float8`), in one scale a row.
    """

    bits: int = Field(ge=2, le=8)
    group: int | None = Field(default=None, gt=0)
    symmetric: bool = True
    mirrored: bool = False
    scales: Literal["float16", "bfloat16"] = "float16"
    number: Literal["int", "float"] = "int"

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << (self.bits - 1)) - 1

    def width(self, columns: int) -> int:
        """Columns in a full group of a matrix with `columns` columns."""
        return max(1, columns) if self.group is None else min(self.group, max(1, columns))

    def groups(self, columns: int) -> int:
        """Scales a row of `columns` columns has."""
        return -(-columns // self.width(columns))

    def spread(self, values: Tensor, columns: int) -> Tensor:
        """One value a group [rows, groups] repeated for each of the group's columns [rows, columns]."""
        return values.repeat_interleave(self.width(columns), dim=1)[:, :columns]

    def storable(self, scale: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Scales rounded so that storing them in two bytes changes nothing; those out of float16's normal range stay.

        Rounding happens before the codes are chosen, so the codes make up for it.
        """
        if self.scales == "bfloat16":
            return scale.to(torch.bfloat16).to(scale.dtype)
        half = scale.to(torch.float16).to(scale.dtype)
        size = scale.abs()
        normal = (size >= torch.finfo(torch.float16).smallest_normal) & (size <= torch.finfo(torch.float16).max)
        return torch.where(normal, half, scale.to(torch.float32).to(scale.dtype))

    def size_bytes(self, rows: int, columns: int) -> int:
        """Bytes that the codes, two-byte scales and zero points of a matrix take when packed."""
        scales = rows * self.groups(columns)
        words = rows * -(-columns * self.bits // 32) + (
            0 if self.symmetric else self.groups(columns) * -(-rows * self.bits // 32)
        )
        return 4 * words + 2 * scales


@dataclass(frozen=True)
class Codes:
    """A rounded matrix: `restored = (values - zero) * scale`, group by group.

    `notes` says what a person should know about how the codes were found (for example a raised damping).
    """

    values: Int8[Tensor, "rows columns"]
    scale: Float[Tensor, "rows groups"]
    zero: Int8[Tensor, "rows groups"] | None
    grid: Grid
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows, columns = self.values.shape
        expected = (rows, self.grid.groups(columns))
        if tuple(self.scale.shape) != expected or (self.zero is not None and tuple(self.zero.shape) != expected):
            zero = None if self.zero is None else tuple(self.zero.shape)
            raise InputError(
                f"A {rows} x {columns} matrix on the grid {self.grid!r} needs scales and zeros of shape {expected}, "
                f"not {tuple(self.scale.shape)} and {zero}."
            )
        if self.grid.symmetric != (self.zero is None):
            raise InputError(f"Zero points go with an asymmetric grid and with no other; the grid is {self.grid!r}.")

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "rows columns"]:
        """The matrix that the codes stand for."""
        columns = self.values.shape[1]
        float8 = self.grid.number == "float"
        shifted = (self.values.view(torch.float8_e4m3fn) if float8 else self.values).to(dtype, copy=True)
        width = self.grid.width(columns)
        if columns and columns % width == 0:  # in place, without a scale for every number
            groups = shifted.view(len(shifted), -1, width)
            if self.zero is not None:
                groups -= self.zero[:, :, None]
            groups *= self.scale[:, :, None].to(dtype)
            return shifted
        if self.zero is not None:
            shifted -= self.grid.spread(self.zero, columns).to(dtype)
        return shifted.mul_(self.grid.spread(self.scale, columns).to(dtype))

    def rows(self, which: slice | Int[Tensor, " some"]) -> "Codes":
        """Some rows."""
        zero = None if self.zero is None else self.zero[which]
        return Codes(self.values[which], self.scale[which], zero, self.grid, self.notes)

    def split(self, counts: Sequence[int]) -> "list[Codes]":
        """So many rows, then so many, and so on; each a copy, so that none holds the others in memory."""
        stops = list(accumulate(counts))
        parts = [self.rows(slice(stop - count, stop)) for count, stop in zip(counts, stops, strict=True)]
        return [join([part]) for part in parts]


def join(parts: Sequence[Codes]) -> Codes:
    """Matrices with the same columns on one grid, one below the other."""
    zeros = [part.zero for part in parts if part.zero is not None]
    return Codes(
        torch.cat([part.values for part in parts]),
        torch.cat([part.scale for part in parts]),
        torch.cat(zeros) if zeros else None,
        parts[0].grid,
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def encode(
    weight: Float[Tensor, "*shape"], scale: Float[Tensor, "*shape"], zero: Float[Tensor, "*shape"], grid: Grid
) -> Float[Tensor, "*shape"]:
    """The nearest code of each value, still a float: clamp(round(w / scale) + zero); ties go to the even integer."""
    return ((weight / scale).round() + zero).clamp_(grid.low, grid.high)


def search_scale(
    weight: Float[Tensor, "rows columns"], importance: Float[Tensor, "blocks columns"], grid: Grid
) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """Scale and zero point of every group, so that sum_j h_j (w_j - s q_j)^2 is small, q the codes without the zero point.

    Each of `OVERSHOOTS`, and on a mirrored grid its negative scale, leads to codes by rounding to the nearest; the best scale
    for these codes is s = sum h w q / sum h q^2, and takes sum h w q * s off the error that all zeros would have. The codes
    that take most win. Trading a little clipping for finer steps is worth 2 to 3 dB at 2 to 3 bits.

    Args:
        weight: the matrix, float32 or float64.
        importance: h, the weight of each squared error, for each block of as many rows; its scale does not matter.
        grid: the levels.

    Returns:
        Scales, and zero points as floats (zeros for a symmetric grid).
    """
    from triptych.compress.quantize.kernels import ALONE, best_scales, in_threads

    rows, columns = weight.shape
    groups, levels = grid.groups(columns), grid.high - (0 if grid.symmetric else grid.low)
    scale, zero = weight.new_ones(rows, groups), weight.new_zeros(rows, groups)
    shrinks = torch.tensor([levels / (levels + d) for d in OVERSHOOTS if d <= 4 * levels], dtype=weight.dtype)
    tensors = (
        weight.contiguous(),
        importance.to(weight.dtype).contiguous(),
        torch.cat([shrinks, -shrinks]) if grid.mirrored else shrinks,
        scale,
        zero,
    )
    arrays = [tensor.numpy() for tensor in tensors]
    form = (grid.width(columns), grid.low, grid.high, grid.symmetric)
    in_threads(partial(best_scales, *arrays, form), rows, ALONE // max(1, columns))
    return grid.storable(scale), zero


def output_error(
    weight: Float[Tensor, "rows columns"],
    restored: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "columns columns"] | Float[Tensor, "blocks columns columns"] | None,
) -> float:
    """The share of the layer's output energy that is lost: tr(D H D') / tr(W H W') with D the change of the weight.

    With one moment a block (grouped convolution) the rows are split evenly over the blocks; None stands for white
    inputs.
    """

    def energy(matrix: Tensor) -> float:
        m = matrix.to(torch.float64)
        if moment is None:
            return float(m.square().sum())
        H = moment.to(torch.float64).reshape(-1, m.shape[1], m.shape[1])
        split = m.reshape(H.shape[0], -1, m.shape[1])
        return float(((split @ H) * split).sum())

    total = energy(weight)
    return energy(restored.to(torch.float64) - weight.to(torch.float64)) / total if total > 0 else 0.0


def finish(
    values: Float[Tensor, "rows columns"] | Int8[Tensor, "rows columns"],
    scale: Float[Tensor, "rows groups"],
    zero: Float[Tensor, "rows groups"],
    grid: Grid,
    notes: tuple[str, ...] = (),
) -> Codes:
    """Codes in their storage types."""
    whole: Int[Tensor, "rows groups"] | None = None if grid.symmetric else zero.to(torch.int8)
    return Codes(values.to(torch.int8), scale.to(torch.float32), whole, grid, notes)
