"""FP8: numbers of four exponent and three mantissa bits (E4M3, "fn": no infinities, largest 448), one scale a row.

Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv 2209.05433). Steps grow with the number, so an outlier costs
its neighbours nothing, every value above 2^-6 of a row's largest 448 keeps a relative error of at most 1/16, and a scale
search gains nothing: the largest magnitude goes to 448. Against eight-bit integers this serves long tails, and loses about
12 dB on Gaussian weights (rows of 192). Inputs are rounded token by token when the model runs, with no calibration.

compressed-tensors calls the pair float-quantized: `weight` (float8_e4m3fn) with `weight_scale` [rows, 1].
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float8e4m3fn
from torch import Tensor

from triptych.errors import NumericsError

TOP = 448.0  # the largest number of the format


@dataclass(frozen=True)
class Float8Weight:
    """A matrix in FP8: `restored = values * scale`, row by row."""

    values: Float8e4m3fn[Tensor, "rows columns"]
    scale: Float[Tensor, "rows 1"]

    def restored(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "rows columns"]:
        """The matrix that the values stand for."""
        return self.values.to(dtype) * self.scale.to(dtype)


def quantize(weight: Float[Tensor, "rows columns"]) -> Float8Weight:
    """Rounds a matrix to the nearest FP8 numbers.

    Raises:
        NumericsError: the matrix holds NaN or infinity.
    """
    w = weight.detach().to(torch.float32)
    if not bool(w.isfinite().all()):
        raise NumericsError(
            "A weight that FP8 was asked for holds NaN or infinity.", "Train from the last good checkpoint."
        )
    if w.shape[1] == 0:
        return Float8Weight(w.to(torch.float8_e4m3fn), w.new_ones(len(w), 1))
    scale = _scale(w)
    return Float8Weight((w / scale).clamp_(-TOP, TOP).to(torch.float8_e4m3fn), scale)


def per_token(x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens columns"]:
    """Each token's values at the nearest FP8 numbers, times a scale of its own."""
    scale = _scale(x.to(torch.float32))
    return ((x / scale).clamp_(-TOP, TOP).to(torch.float8_e4m3fn).to(torch.float32) * scale).to(x.dtype)


def _scale(x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens 1"]:
    """What brings the largest magnitude of each row to 448; 1 for a row of zeros."""
    scale = x.abs().amax(-1, keepdim=True) / TOP
    return torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
