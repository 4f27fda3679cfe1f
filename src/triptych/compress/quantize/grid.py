"""The integer grid a weight matrix is rounded to, and the codes that result.

A grid has 2^bits levels, one scale a group of `group` neighbouring columns of a row (or one a row), and, when it is not
symmetric, one zero point beside each scale:

    restored = (code - zero) * scale,        code in [-2^(bits-1), 2^(bits-1) - 1]

Codes are signed in memory for every width; only `pack` and the engines know of other encodings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float, Int, Int8
from pydantic import Field
from torch import Tensor

from triptych.errors import InputError
from triptych.structure import Settings

# A scale is tried at its full range times each of these: 1, 0.99, ..., 0.2. Two bits take low ones, eight none.
SHRINKS = tuple(1 - i / 100 for i in range(81))

AT_ONCE = 1 << 20  # weights whose scales are searched together: all the scales that are tried for them are in memory


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
    weight: Float[Tensor, "rows columns"], importance: Float[Tensor, "rows columns"], grid: Grid
) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """Scale and zero point of every group: argmin over shrink factors of sum_j h_j (w_j - Q_s(w_j))^2.

    The full range of a group (always taken to hold zero) times each of `SHRINKS` is tried, and on a mirrored grid its
    negative; the first best wins. Trading
    a little clipping for finer steps is worth 2 to 3 dB at 2 to 3 bits.

    Args:
        weight: the matrix, float32 or float64.
        importance: h, the weight of each squared error; its scale does not matter.
        grid: the levels.

    Returns:
        Scales, and zero points as floats (zeros for a symmetric grid).
    """
    rows, columns = weight.shape
    width, groups = grid.width(columns), grid.groups(columns)
    scale, zero = weight.new_zeros(rows, groups), weight.new_zeros(rows, groups)

    def grouped(matrix: Tensor) -> Float[Tensor, "groups width"]:
        short = groups * width - matrix.shape[1]  # padding has no importance
        return (torch.nn.functional.pad(matrix, (0, short)) if short else matrix).reshape(-1, width)

    if columns:
        once = max(1, AT_ONCE // columns)
        for first in range(0, rows, once):
            some = slice(first, first + once)
            found = _search(grouped(weight[some]), grouped(importance[some]), grid)
            scale[some], zero[some] = (value.reshape(-1, groups) for value in found)
    return scale, zero


def _search(
    w: Float[Tensor, "groups width"], h: Float[Tensor, "groups width"], grid: Grid
) -> tuple[Float[Tensor, " groups"], Float[Tensor, " groups"]]:
    """`search_scale` of some groups."""
    from triptych.compress.quantize.kernels import in_threads, least_error

    low, high = grid.low, grid.high
    least, most = w.amin(1).clamp_(max=0), w.amax(1).clamp_(min=0)
    span = torch.maximum(-least, most) / high if grid.symmetric else (most - least) / (high - low)
    span = torch.where(span > torch.finfo(torch.float32).tiny, span, torch.ones_like(span))  # a group of zeros
    shrinks = torch.tensor(SHRINKS, dtype=w.dtype)
    if grid.mirrored:
        shrinks = torch.cat([shrinks, -shrinks])
    scales = grid.storable(span[:, None] * shrinks)
    zeros = torch.zeros_like(scales)
    if not grid.symmetric:
        zeros = (low - least[:, None] * shrinks / scales).round_().clamp_(low, high)
    chosen = torch.empty(len(w), 1, dtype=torch.int64)

    def choose(part: slice) -> None:
        tensors = (w[part], h[part], scales[part], zeros[part], chosen[part, 0])
        least_error(*(tensor.numpy() for tensor in tensors), low, high)

    in_threads(choose, len(w))
    return scales.gather(1, chosen)[:, 0], zeros.gather(1, chosen)[:, 0]


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
