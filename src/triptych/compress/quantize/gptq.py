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

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.compress.quantize.grid import Codes, Grid, finish, search_scale
from triptych.compress.quantize.kernels import round_block
from triptych.errors import InputError, NumericsError
from triptych.registry import register

SINGULAR = 1e-7  # ratio of the factor's least to largest pivot at which float64 has no correct digits left


@dataclass(frozen=True)
class Factor:
    """A damped second moment, factored in the order that columns are rounded in; columns are rounded last to first.

    Attributes:
        order: the column that stands at each place.
        lower: Cholesky factor of the moment with its columns in that order.
        diagonal: of the damped moment, in the original order.
        notes: what a person should know, for example that the damping was raised.
    """

    order: Int[Tensor, "blocks columns"]
    lower: Float[Tensor, "blocks columns columns"]
    diagonal: Float[Tensor, "blocks columns"]
    notes: tuple[str, ...] = ()


@register("quantizer", "gptq")
def quantize(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "*blocks inputs inputs"] | None,
    grid: Grid,
    *,
    damping: float = 0.01,
    act_order: bool = True,
    block: int = 32,
) -> Codes:
    """Rounds a matrix so that the layer's outputs move least.

    Layers that read the same input are best rounded together, one below the other: rows do not depend on each other,
    and the moment is factored once.

    Args:
        weight: the matrix; float64 is computed in float64, all else in float32 (the factorisation always in float64).
        moment: E[x x'] of the layer's inputs; a grouped convolution brings one for each block of rows. A column that
            saw no input (zero row and column) is rounded to nearest: its weight may matter for inputs that the
            calibration lacked.
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
    return round_columns(w, factorise(w, moment, damping, act_order), grid, block)


def factorise(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "*blocks inputs inputs"] | None,
    damping: float = 0.01,
    act_order: bool = True,
) -> Factor:
    """The factor of a weight's second moment; arguments and errors are those of `quantize`."""
    rows, columns = weight.shape
    if moment is None or moment.shape[-1] != columns or rows % max(1, moment[..., 0, 0].numel()):
        shape = None if moment is None else tuple(moment.shape)
        raise InputError(
            f"GPTQ of a {rows} x {columns} weight got second moments of shape {shape}.",
            "Collect them with `moments.collect`, or use the method rtn.",
        )
    H = moment.reshape(-1, columns, columns).to(torch.float64)
    if not bool(torch.isfinite(H).all()):
        raise NumericsError(
            "The second moments for GPTQ hold NaN or infinity.",
            "Check the calibration samples and the layer before this one.",
        )
    mean = H.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    H = torch.where(mean > 0, H, torch.eye(columns, dtype=H.dtype, device=H.device))  # no input: round to nearest
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))[:, 0]
    share, notes = damping, tuple[str, ...]()
    while True:
        diagonal = H.diagonal(dim1=1, dim2=2) + share * mean
        order = diagonal.argsort(dim=-1, descending=True, stable=True).flip(-1)
        if not act_order:
            order = torch.arange(columns, device=H.device).flip(0).expand_as(order)
        block = torch.arange(len(H), device=H.device)[:, None, None]
        ordered = H[block, order[:, :, None], order[:, None, :]]
        ordered.diagonal(dim1=1, dim2=2).copy_(diagonal.gather(1, order))
        lower, failed = torch.linalg.cholesky_ex(ordered)
        pivots = lower.diagonal(dim1=1, dim2=2)
        if not bool(failed.any()) and bool((pivots.amin(-1) > SINGULAR * pivots.amax(-1)).all()):
            return Factor(order, lower, diagonal, notes)
        share = max(share * 10, 1e-6)
        notes = (f"the second moments are singular: damping was raised from {damping:g} to {share:g}",)


def round_columns(weight: Float[Tensor, "rows columns"], factor: Factor, grid: Grid, block: int = 32) -> Codes:
    """The loop of the paper over a matrix whose second moment was factored.

    Columns lie in memory as rows do elsewhere, because a column is what is worked on at a time.
    """
    rows, columns = weight.shape
    blocks = len(factor.order)
    scale, zero = search_scale(weight, factor.diagonal.to(weight.dtype).repeat_interleave(rows // blocks, dim=0), grid)
    every = torch.arange(blocks, device=weight.device)[:, None]

    def arrange(matrix: Tensor, places: Tensor) -> Float[Tensor, "blocks columns rows"]:
        split = matrix.reshape(blocks, rows // blocks, matrix.shape[1]).transpose(1, 2)
        return split[every, places].contiguous()

    group = factor.order // grid.width(columns)
    scales, zeros = arrange(scale, group), arrange(zero, group)
    L = (factor.lower / factor.lower.diagonal(dim1=1, dim2=2)[:, None, :]).to(weight.dtype)
    rest = arrange(weight, factor.order)  # w_j, and w_j - q_j once the column is rounded
    codes = torch.empty_like(rest)
    for stop in range(columns, 0, -block):
        part = slice(max(0, stop - block), stop)
        codes[:, part] = torch.baddbmm(rest[:, part], L[:, stop:, part].mT, rest[:, stop:])
        for b in range(blocks):
            tensors = (codes[b, part], rest[b, part], L[b, part, part], scales[b, part], zeros[b, part])
            round_block(*(tensor.numpy() for tensor in tensors), grid.low, grid.high)
    codes += zeros
    values = torch.empty_like(codes)
    values[every, factor.order] = codes
    return finish(values.transpose(1, 2).reshape(rows, columns), scale, zero, grid, factor.notes)
