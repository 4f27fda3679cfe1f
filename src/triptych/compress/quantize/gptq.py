"""GPTQ: round one column at a time and let the columns not yet rounded make up for the error.

Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (ICLR 2023). It lowers tr((W - Q) H (W - Q)'), the error of the layer's outputs over inputs with second
moment H = E[x x'], and is Babai's nearest plane in the lattice of codes (arXiv 2507.18553). In words, with H^-1 = U' U
and U upper triangular:

    for j = 1 .. columns:   q_j = round(w_j);   e = (w_j - q_j) / U_jj;   w_k -= e U_jk  for the columns k > j

Choices made here: columns go in descending order of diag H (act-order) while groups and their scales are those of the
original order (static), so nothing about the order is stored; scales come from the search of `grid.search_scale` on the
unrounded matrix, not from the extremes; columns are updated inside blocks of 128 and the rest of the matrix once a
block (lazy batches), which is the same arithmetic in fewer, larger products. U comes from one Cholesky factorisation of
H written backwards: with H = R R' and R upper triangular, H^-1 = R^-T R^-1, so U = R^-1 and H is never inverted itself.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from triptych.compress.quantize.grid import Codes, Grid, finish, search_scale
from triptych.compress.quantize.rtn import importances
from triptych.errors import InputError, NumericsError
from triptych.registry import register

SINGULAR = 1e-7  # ratio of the factor's least to largest pivot at which float64 has no correct digits left


@register("quantizer", "gptq")
def quantize(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "*blocks inputs inputs"] | None,
    grid: Grid,
    *,
    damping: float = 0.01,
    act_order: bool = True,
    block: int = 128,
) -> Codes:
    """Rounds a matrix so that the layer's outputs move least.

    Args:
        weight: the matrix; float64 is computed in float64, all else in float32 (the factorisation always in float64).
        moment: E[x x'] of the layer's inputs; a grouped convolution brings one for each block of rows. A column that
            saw no input (zero row and column) is rounded to nearest: its weight may matter for inputs that the
            calibration lacked.
        grid: the levels.
        damping: share of the mean of diag H that is added to the diagonal. Raised tenfold while H is singular; the
            codes' notes say so.
        act_order: round the columns with the largest inputs first.
        block: columns updated at once.

    Raises:
        InputError: no moment, or one of another size.
        NumericsError: the moment holds NaN or infinity.
    """
    rows, columns = weight.shape
    if moment is None or moment.shape[-1] != columns or rows % max(1, moment[..., 0, 0].numel()):
        shape = None if moment is None else tuple(moment.shape)
        raise InputError(
            f"GPTQ of a {rows} x {columns} weight got second moments of shape {shape}.",
            "Collect them with `moments.collect`, or use the method rtn.",
        )
    w = weight.detach() if weight.dtype == torch.float64 else weight.detach().to(torch.float32)
    H, factor, order, notes = _prepare(moment.reshape(-1, columns, columns).to(torch.float64), damping, act_order)
    scale, zero = search_scale(w, importances(w, H), grid)
    split = (H.shape[0], rows // H.shape[0], columns)
    along = order[:, None, :].expand(split)

    def arrange(matrix: Tensor) -> Tensor:  # blocks of rows, columns in the order they are rounded
        return matrix.reshape(split).gather(2, along)

    levels = (arrange(grid.spread(scale, columns)), arrange(grid.spread(zero, columns)))
    codes = _round_columns(arrange(w), factor.to(w.dtype), levels, grid, block)
    values = torch.empty_like(codes).scatter_(2, along, codes).reshape(rows, columns)
    return finish(values, scale, zero, grid, notes)


def _prepare(
    H: Float[Tensor, "blocks columns columns"], damping: float, act_order: bool
) -> tuple[
    Float[Tensor, "blocks columns columns"],
    Float[Tensor, "blocks columns columns"],
    Int[Tensor, "blocks columns"],
    tuple[str, ...],
]:
    """The damped moments, U of H^-1 = U' U in the order of rounding, that order, and notes about raised damping."""
    if not bool(torch.isfinite(H).all()):
        raise NumericsError(
            "The second moments for GPTQ hold NaN or infinity.",
            "Check the calibration samples and the layer before this one.",
        )
    eye = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device)
    mean = H.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    H = torch.where(mean > 0, H, eye)  # no input at all: round to nearest
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    share, notes = damping, tuple[str, ...]()
    while True:
        damped = H + share * mean * eye
        diagonal = damped.diagonal(dim1=1, dim2=2)
        order = diagonal.argsort(dim=-1, descending=True, stable=True)
        if not act_order:
            order = torch.arange(H.shape[-1], device=H.device).expand_as(order)
        ordered = damped.gather(1, order[:, :, None].expand_as(damped)).gather(2, order[:, None, :].expand_as(damped))
        lower, failed = torch.linalg.cholesky_ex(ordered.flip(1, 2))
        pivots = lower.diagonal(dim1=1, dim2=2)
        if not bool(failed.any()) and bool((pivots.amin(-1) > SINGULAR * pivots.amax(-1)).all()):
            break
        share = max(share * 10, 1e-6)
        notes = (f"the second moments are singular: damping was raised from {damping:g} to {share:g}",)
    factor = torch.linalg.solve_triangular(lower.flip(1, 2), eye.expand_as(damped), upper=True)
    return damped, factor, order, notes


def _round_columns(
    W: Float[Tensor, "blocks rows columns"],
    U: Float[Tensor, "blocks columns columns"],
    levels: tuple[Float[Tensor, "blocks rows columns"], Float[Tensor, "blocks rows columns"]],
    grid: Grid,
    block: int,
) -> Float[Tensor, "blocks rows columns"]:
    """The loop of the paper, in lazy batches of `block` columns; `levels` are scales and zeros; returns the codes."""
    W, codes, columns = W.clone(), torch.empty_like(W), W.shape[-1]
    low, high = grid.low, grid.high
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        part, errors = W[:, :, start:stop].clone(), torch.empty_like(W[:, :, start:stop])
        for j in range(stop - start):
            at = start + j
            w, s, z = part[:, :, j], levels[0][:, :, at], levels[1][:, :, at]
            q = (w / s).round_().add_(z).clamp_(low, high)  # as `grid.encode`
            codes[:, :, at] = q
            error = (w - (q - z) * s) / U[:, at, at, None]
            errors[:, :, j] = error
            part[:, :, j + 1 :] -= error[:, :, None] * U[:, at, None, at + 1 : stop]
        W[:, :, stop:] -= errors @ U[:, start:stop, stop:]
    return codes
