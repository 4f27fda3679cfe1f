"""Ranges of activations: where the 256 levels of an eight-bit input lie, and rounding to them.

One range a tensor, found from samples that were seen during calibration. Zero is always a level, because convolutions
pad with it and ReLU produces it: a level that misses zero adds the same error to every padded pixel.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from triptych.errors import NumericsError
from triptych.structure import Settings

LEVELS = 256
Search = Literal["minmax", "percentile", "mse"]


class Range(Settings):
    """The interval that 256 levels span. Unsigned codes 0 to 255 with `zero` the code of 0; signed ones are 128 lower.

    Attributes:
        low: lower end, at most 0.
        high: upper end, at least 0. Both ends move by less than one step when zero is made a level: see `bounds`.
    """

    low: float
    high: float

    @model_validator(mode="after")
    def _holds_zero(self) -> "Range":
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= 0 <= self.high):
            raise ValueError(f"an activation range must be finite and hold zero, not {self.low} to {self.high}")
        return self

    @property
    def scale(self) -> float:
        """The step between levels, a float32 number, above zero."""
        step = float(np.float32((self.high - self.low) / (LEVELS - 1)))
        return step if step >= float(np.finfo(np.float32).tiny) else 1.0

    @property
    def zero(self) -> int:
        """The unsigned code of 0."""
        return min(LEVELS - 1, max(0, round(-self.low / self.scale)))

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest level."""
        return -self.zero * self.scale, (LEVELS - 1 - self.zero) * self.scale

    @classmethod
    def of(cls, scale: float, zero: int) -> "Range":
        """The range with this step and this unsigned code of zero."""
        return cls(low=-zero * scale, high=(LEVELS - 1 - zero) * scale)


def fake_quantize(x: Float[Tensor, "*shape"], range: Range) -> Float[Tensor, "*shape"]:  # noqa: A002 - the word of the field
    """The values at the nearest of the range's levels; gradients pass inside the range and are zero outside it."""
    return torch.fake_quantize_per_tensor_affine(x, range.scale, range.zero, 0, LEVELS - 1)


def observe(samples: Float[Tensor, "*shape"], search: Search = "mse", percentile: float = 99.99) -> Range:
    """A range for a tensor of which these values were seen.

    minmax: their extremes, which one outlier can stretch. percentile: this share of each sign's values inside. mse: the
    ends that minimise sum (x - Q(x))^2, one at a time and twice round, between 20 % and 100 % of the extremes.

    Raises:
        NumericsError: a sample is NaN or infinite.
    """
    x = samples.detach().flatten().to(torch.float32)
    if not bool(torch.isfinite(x).all()):
        raise NumericsError(
            "An activation range was asked of samples that hold NaN or infinity.", "Find the layer that makes them."
        )
    if x.numel() == 0:
        return Range(low=0.0, high=0.0)
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    if search == "percentile":
        ends = np.percentile(x.numpy(), [100 - percentile, percentile])
        low, high = min(0.0, float(ends[0])), max(0.0, float(ends[1]))
    elif search == "mse":
        low, high = _least_error(x, low, high)
    return Range(low=low, high=high)


def _least_error(x: Float[Tensor, " samples"], low: float, high: float) -> tuple[float, float]:
    """Shrinks one end at a time to where the squared error is least: in steps of 5 %, then of 1 % around the best."""

    def error(low: float, high: float) -> float:
        span = Range(low=low, high=high)
        rounded = torch.fake_quantize_per_tensor_affine(x, span.scale, span.zero, 0, LEVELS - 1)
        return float(rounded.sub_(x).square_().sum())

    def shrunk(end: float, other: float) -> float:
        def cost(percent: int) -> float:
            new = end * percent / 100
            return error(new, other) if end < 0 else error(other, new)

        if end == 0:
            return end
        coarse = min(range(100, 19, -5), key=cost)
        return end * min(range(min(100, coarse + 4), max(20, coarse - 4) - 1, -1), key=cost) / 100

    least, most = low, high
    for _ in range(2):
        low = shrunk(least, high)
        high = shrunk(most, low)
    return low, high


def per_token(x: Float[Tensor, "*tokens columns"]) -> Float[Tensor, "*tokens columns"]:
    """Each token's values at the nearest of 256 levels of its own, step = 2 max|x| / 255, codes from -128 to 127.

    The convention of compressed-tensors, so that its readers compute the same numbers: the largest value loses half a
    step.
    """
    step = x.abs().amax(-1, keepdim=True) / 127.5
    step = torch.where(step == 0, torch.finfo(x.dtype).eps, step)
    return (x / step).round_().clamp_(-128, 127).mul_(step)
