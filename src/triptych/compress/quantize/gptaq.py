"""GPTAQ: GPTQ towards the outputs of the uncompressed model, not towards those of the unrounded layer.

Li, Yin, Lee, Xiao, Panda, "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration" (ICML 2025). A
layer behind compressed ones reads xhat where the original reads x, and W x is what is wanted. With H = E[xhat xhat'] and
the drift C = E[(x - xhat) xhat'],

    E |W x - Q xhat|^2  =  tr((T - Q) H (T - Q)') + constant,      T = W (1 + C H^-1)

so the best rounding is GPTQ's of the target T: first the weights move to where they undo what upstream rounding did, then
they are rounded. The paper adds W_j P_j to the columns after j when j is rounded, with U = chol(H^-1) upper and
P = triu(C U', 1) U: the share of column j's drift that the columns still unrounded can undo. Those that come earlier, j
itself among them, can undo more, and T lets them; there is no further cost. With C = 0 both are GPTQ.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.compress.quantize import gptq
from triptych.compress.quantize.grid import Codes, Grid
from triptych.errors import InputError, NumericsError
from triptych.registry import register


@register("quantizer", "gptaq")
def quantize(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "*blocks inputs inputs"] | None,
    grid: Grid,
    *,
    drift: Float[Tensor, "*parts drifted along"] | None = None,
    alpha: float = 1.0,
    damping: float = 0.01,
    act_order: bool = True,
    block: int = 32,
) -> Codes:
    """Rounds a matrix so that the outputs of the compressed model stay near those of the original.

    Args:
        weight: the matrix; float64 is computed in float64, all else in float32 (the target always in float64).
        moment: E[xhat xhat'] of the layer's inputs in the compressed model; a grouped convolution brings one for each
            block of rows.
        grid: the levels.
        drift: E[(x - xhat) xhat'] with x the inputs in the original model, shaped like the moment; None for none, which
            is GPTQ.
        alpha: share of the correction; below 1 where few samples make the drift uncertain.
        damping: as in `gptq.quantize`; it also holds the target near the weight.
        act_order: as there.
        block: as there.

    Raises:
        InputError: no moment, or a moment or drift of another size.
        NumericsError: the moment or the drift holds NaN or infinity.
    """
    w = weight.detach() if weight.dtype == torch.float64 else weight.detach().to(torch.float32)
    factor = gptq.factorise(moment, w.shape, damping, act_order)
    if drift is not None:
        w = target(w, factor, drift, alpha)
    return gptq.round_columns(w, factor, grid, block)


def target(
    weight: Float[Tensor, "rows columns"],
    factor: gptq.Factor,
    drift: Float[Tensor, "*parts drifted along"],
    alpha: float = 1.0,
) -> Float[Tensor, "rows columns"]:
    """T = W (1 + alpha C H^-1), the unrounded weights that best give the original outputs from compressed inputs.

    Raises:
        InputError: a drift of another size than the moment.
        NumericsError: the drift holds NaN or infinity.
    """
    blocks, columns = factor.order.shape
    if drift.shape[-1] != columns or drift[..., 0, 0].numel() != blocks:
        raise InputError(
            f"GPTAQ of {columns} columns in {blocks} blocks got a drift of shape {tuple(drift.shape)}.",
            "Collect E[(x - xhat) xhat'] of the same inputs as the second moment.",
        )
    L, pivots = factor.lower.to(torch.float64), factor.pivots.to(torch.float64)[:, None, :]
    C = drift.reshape(blocks, columns, columns).to(torch.float64)
    if not bool(torch.isfinite(C).all()):
        raise NumericsError(
            "The drift for GPTAQ holds NaN or infinity.", "Check the calibration samples and the layer before this one."
        )
    split = weight.reshape(blocks, -1, columns).to(torch.float64)
    order = factor.order[:, None, :].expand(split.shape)
    pull = (split @ C).gather(2, order)
    # times (L D L')^-1 from the right, one triangle after the other
    half = torch.linalg.solve_triangular(L.mT, pull, upper=True, left=False, unitriangular=True) / pivots**2
    solved = torch.linalg.solve_triangular(L, half, upper=False, left=False, unitriangular=True)
    moved = split + alpha * torch.empty_like(solved).scatter_(2, order, solved)
    return moved.reshape(weight.shape).to(weight.dtype)
