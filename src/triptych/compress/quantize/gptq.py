"""GPTQ: round one column at a time and let the columns not yet rounded make up for the error.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (ICLR 2023). It lowers tr((W - Q) H (W - Q)'), the error of the layer's outputs over inputs with second
moment H = E[x x'], and is Babai's nearest plane in the lattice of codes (arXiv 2507.18553). With H = L D L' and L unit
lower triangular that error is sum_j D_jj |e_j|^2, where e = (W - Q) L, so each column in turn, the last one first, is
rounded to make its e_j least:

    for j = columns .. 1:   q_j = round(w_j + sum_{i > j} (w_i - q_i) L_ij)

This is the same arithmetic as the paper's updates with the rows of chol(H^-1) (QuIP, arXiv 2307.13304, theorem 6) but H
is never inverted, and a column is written once rather than once a column before it.

Choices made here: columns go in descending order of diag H (act-order) while groups and their scales are those of the
original order (static), so nothing about the order is stored; scales come from the search of `grid.search_scale` on the
unrounded matrix, not from the extremes; what the columns of other blocks of 32 ask of a block is one matrix product.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.compress.quantize.grid import Codes, Grid, finish, search_scale
from triptych.compress.quantize.kernels import ALONE, in_threads, round_block
from triptych.errors import InputError, NumericsError
from triptych.registry import register

PANEL = 128  # columns that are moved at a time where a second moment is worked on in its own place


@dataclass(frozen=True)
class Factor:
    """A damped second moment as L D L', in the order that columns are rounded in; columns are rounded last to first.

    Attributes:
        order: the column that stands at each place.
        lower: L, its diagonal of ones included. What stands above the diagonal means nothing.
        pivots: the square roots of D.
        diagonal: of the damped moment, in the original order.
        notes: what a person should know, for example that the damping was raised.
    """

    order: Int[Tensor, "blocks columns"]
    lower: Float[Tensor, "blocks columns columns"]
    pivots: Float[Tensor, "blocks columns"]
    diagonal: Float[Tensor, "blocks columns"]
    notes: tuple[str, ...] = ()


@register("quantizer", "gptq")
def quantize(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "*blocks inputs inputs"] | Factor | None,
    grid: Grid,
    *,
    damping: float = 0.01,
    act_order: bool = True,
    block: int = 32,
) -> Codes:
    """Rounds a matrix so that the layer's outputs move least.

    Rows do not depend on each other: layers that read the same input are best rounded together, one below the other, and a
    matrix that is too large to be worked on as a whole some rows at a time, with one factor.

    Args:
        weight: the matrix; float64 is computed in float64, all else in float32.
        moment: E[x x'] of the layer's inputs, or what `factorise` made of it; a grouped convolution brings one for each
            block of rows. A column that saw no input (zero row and column) is rounded to nearest: its weight may matter
            for inputs that the calibration lacked.
        grid: the levels.
        damping: share of the mean of diag H that is added to the diagonal. Raised tenfold while H is singular; the
            codes' notes say so.
        act_order: round the columns with the largest inputs first.
        block: columns between two matrix products.

    Raises:
        InputError: no moment, or one of another size.
        NumericsError: the moment holds NaN or infinity.
    """
    w = weight.detach() if weight.dtype == torch.float64 else weight.detach().to(torch.float32)
    factor = moment if isinstance(moment, Factor) else factorise(moment, w.shape, damping, act_order)
    return round_columns(w, factor, grid, block)


def factorise(
    moment: Float[Tensor, "*blocks inputs inputs"] | None,
    shape: Sequence[int],
    damping: float = 0.01,
    act_order: bool = True,
    *,
    overwrite: bool = False,
) -> Factor:
    """The factor of the second moment of a weight with this shape; other arguments and errors are those of `quantize`.

    The factor has the moment's own type: its sums were rounded to that already. With `overwrite` it also takes the moment's
    place: of a layer with 19,000 inputs one copy is 1.4 GB.
    """
    rows, columns = shape
    if moment is None or moment.shape[-1] != columns or rows % max(1, moment[..., 0, 0].numel()):
        found = None if moment is None else tuple(moment.shape)
        raise InputError(
            f"GPTQ of a {rows} x {columns} weight got second moments of shape {found}.",
            "Collect them with `moments.collect`, or use the method rtn.",
        )
    H = moment.detach().reshape(-1, columns, columns)
    H = H if overwrite and H.is_contiguous() else H.clone(memory_format=torch.contiguous_format)
    if not bool(H.sum(-1).isfinite().all()):
        raise NumericsError(
            "The second moments for GPTQ hold NaN or infinity.",
            "Check the calibration samples and the layer before this one.",
        )
    mean = H.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))  # no input: the damping alone, which rounds to nearest
    undamped = H.diagonal(dim1=1, dim2=2).clone()
    order = torch.arange(columns, device=H.device).flip(0).expand_as(undamped)
    if act_order:
        order = (undamped + damping * mean).argsort(dim=-1, descending=True, stable=True).flip(-1)
    for matrix, places in zip(H, order, strict=True):
        _reorder(matrix, places)
    silent = int((undamped == 0).sum())
    share, notes = damping, tuple[str, ...]()
    if silent:
        notes = (f"{silent} of {undamped.numel()} input channels were always zero: they were rounded to the nearest",)
    known = notes
    while True:
        diagonal = undamped + share * mean
        H.diagonal(dim1=1, dim2=2).copy_(diagonal.gather(1, order))
        factored = [_cholesky(matrix) for matrix in H]
        pivots = H.diagonal(dim1=1, dim2=2).clone()
        # Below it not one digit of the least pivot's square is left.
        least = torch.finfo(H.dtype).eps ** 0.5 * pivots.amax(-1)
        if all(factored) and bool((pivots.amin(-1) > least).all()):
            return Factor(order, H.div_(pivots[:, None, :]), pivots, diagonal, notes)
        for matrix in H:
            _restore(matrix)
        share = max(share * 10, 1e-6)
        notes = (*known, f"the second moments are singular: damping was raised from {damping:g} to {share:g}")


def _reorder(matrix: Float[Tensor, "columns columns"], order: Int[Tensor, " columns"]) -> None:
    """Rows and columns of a matrix in another order, in its own place."""
    for part in matrix.split(PANEL, dim=1):
        part.copy_(part.index_select(0, order))
    for part in matrix.split(PANEL):
        part.copy_(part.index_select(1, order))


def _cholesky(matrix: Float[Tensor, "columns columns"]) -> bool:
    """Puts the Cholesky factor into the lower triangle, leaves what is above the diagonal; False where there is none.

    A panel at a time, so that nothing of the matrix's size is needed besides.
    """
    for first in range(0, len(matrix), PANEL):
        here, below = slice(first, first + PANEL), slice(first + PANEL, None)
        done = matrix[here, :first]
        corner = matrix[here, here]
        factor, failed = torch.linalg.cholesky_ex(corner - done @ done.T)
        if failed:
            return False
        corner.copy_(factor + corner.triu(1))
        rest = matrix[below, here].addmm_(matrix[below, :first], done.T, alpha=-1)
        rest.copy_(torch.linalg.solve_triangular(factor.T, rest, upper=True, left=False))
    return True


def _restore(matrix: Float[Tensor, "columns columns"]) -> None:
    """The lower triangle anew from the upper one, which `_cholesky` left."""
    for first in range(0, len(matrix), PANEL):
        stop = first + PANEL
        corner = matrix[first:stop, first:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)
        matrix[stop:, first:stop] = matrix[first:stop, stop:].T


def round_columns(weight: Float[Tensor, "rows columns"], factor: Factor, grid: Grid, block: int = 32) -> Codes:
    """The loop of the paper over a matrix whose second moment was factored.

    Columns lie in memory as rows do elsewhere, because a column is what is worked on at a time.
    """
    rows, columns = weight.shape
    blocks = len(factor.order)

    def split(matrix: Tensor) -> Float[Tensor, "blocks wide rows"]:
        return matrix.reshape(blocks, rows // blocks, matrix.shape[1]).mT.contiguous()

    scale, zero = search_scale(weight, factor.diagonal, grid)
    scales, zeros, group = split(scale), split(zero), factor.order // grid.width(columns)
    every = torch.arange(blocks, device=weight.device)[:, None]
    L = factor.lower.to(weight.dtype)
    rest = split(weight)[every, factor.order]  # w_j, and w_j - q_j once the column is rounded
    codes, levels = torch.empty_like(rest), (grid.low, grid.high)
    for b in range(blocks):
        tensors = (codes[b], rest[b], L[b], scales[b], zeros[b], group[b])
        arrays = [tensor.numpy() for tensor in tensors]
        for stop in range(columns, 0, -block):
            part = slice(max(0, stop - block), stop)
            torch.addmm(rest[b, part], L[b, stop:, part].T, rest[b, stop:], out=codes[b, part])
            in_threads(partial(round_block, *arrays, (part.start, stop), levels), rows // blocks, ALONE // block)
    if not grid.symmetric:
        codes += zeros[every, group]
    values = torch.empty_like(codes, dtype=torch.int8)
    values[every, factor.order] = codes.to(torch.int8)
    return finish(values.mT.reshape(rows, columns), scale, zero, grid, factor.notes)
