"""FP8: numbers of four exponent and three mantissa bits (E4M3, "fn": no infinities, largest 448), one scale a row.

Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv 2209.05433). Steps grow with the number, so an outlier costs
its neighbours nothing, every value above 2^-6 of a row's largest 448 keeps a relative error of at most 1/16, and a scale
search gains nothing: the largest magnitude goes to 448. Against eight-bit integers this serves long tails, and loses about
12 dB on Gaussian weights (rows of 192). Inputs are rounded token by token when the model runs, with no calibration.

compressed-tensors calls the pair float-quantized: `weight` (float8_e4m3fn) with `weight_scale` [rows, 1].
"""

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.compress.quantize.grid import Codes, Grid
from triptych.errors import NumericsError
from triptych.registry import register

TOP = 448.0  # the largest number of the format
GRID = Grid(bits=8, number="float")


@register("quantizer", "float8")
def quantize(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "*blocks inputs inputs"] | None,  # noqa: ARG001 - the signature of every quantizer
    grid: Grid = GRID,
) -> Codes:
    """Rounds a matrix to the nearest FP8 numbers, which the codes hold bit by bit.

    Args:
        weight: the matrix.
        moment: not used.
        grid: of floating-point numbers.

    Raises:
        NumericsError: the matrix holds NaN or infinity.
    """
    w = weight.detach().to(torch.float32)
    if not bool(w.isfinite().all()):
        raise NumericsError(
            "A weight that FP8 was asked for holds NaN or infinity.", "Train from the last good checkpoint."
        )
    scale = grid.storable(_scale(w)) if w.shape[1] else w.new_ones(len(w), 0)
    values = (w / scale).clamp_(-TOP, TOP).to(torch.float8_e4m3fn)
    return Codes(values.view(torch.int8), scale, None, grid)


def per_token(x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens columns"]:
    """Each token's values at the nearest FP8 numbers, times a scale of its own."""
    scale = _scale(x.to(torch.float32))
    return ((x / scale).clamp_(-TOP, TOP).to(torch.float8_e4m3fn).to(torch.float32) * scale).to(x.dtype)


def _scale(x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens 1"]:
    """What brings the largest magnitude of each row to 448; 1 for a row of zeros."""
    scale = x.abs().amax(-1, keepdim=True) / TOP
    return torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
