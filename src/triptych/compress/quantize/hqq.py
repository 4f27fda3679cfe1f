"""HQQ: rounding with no data, by an error measure that forgives a few large mistakes.

Badri, Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023, mobiusml.github.io/hqq_blog). The
weights themselves say which of them matter little: phi(W - Q) with phi = |.|^p and p < 1 lets outliers keep their error
and serves the many. Splitting off that error, E, makes each half of the problem easy:

    E <- sign(r) relu(|r| - |r|^(p-1) / beta),  r = W - Q        the prox of phi, near enough
    scale, zero <- least squares of (codes - zero) scale = W - E

and beta grows by kappa a step. The paper moves the zero point alone, as a real number. Ours are whole numbers, as every
integer kernel wants them, and a whole zero point hardly ever moves by such steps; so the scale is refitted as well:

    zero  <- mean of codes - (W - E) / scale,  rounded;      scale <- <codes - zero, W - E> / |codes - zero|^2

which also gives symmetric grids, that have no zero point, something to gain. Every group keeps the best it met, its
starting point included, by sum |W - Q|^p.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from triptych.compress.quantize.grid import Codes, Grid, encode, finish, search_scale
from triptych.registry import register


@register("quantizer", "hqq")
def quantize(
    weight: Float[Tensor, "rows columns"],
    moment: Float[Tensor, "*blocks inputs inputs"] | None,  # noqa: ARG001 - the signature of every quantizer
    grid: Grid,
    *,
    power: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.01,
    steps: int = 20,
) -> Codes:
    """Rounds a matrix by itself.

    Args:
        weight: the matrix; float64 is computed in float64, all else in float32.
        moment: not used.
        grid: the levels.
        power: p of the error measure.
        beta: how closely E follows the error at first, for weights in units of the starting scale.
        growth: kappa, what beta is multiplied with after a step.
        steps: alternations.
    """
    w = weight.detach() if weight.dtype == torch.float64 else weight.detach().to(torch.float32)
    (rows, columns), width, groups = w.shape, grid.width(w.shape[1]), grid.groups(w.shape[1])
    scale, zero = search_scale(w, w.new_ones(1, columns), grid)
    pad = (0, groups * width - columns)
    grouped = torch.nn.functional.pad(w, pad).reshape(rows, groups, width)
    real = torch.nn.functional.pad(torch.ones_like(w), pad).reshape(rows, groups, width)
    scale, zero = _refine(grouped, real, (scale, zero), grid, _Prox(power, beta, growth, steps))
    values = encode(w, grid.spread(scale, columns), grid.spread(zero, columns), grid)
    return finish(values, scale, zero, grid)


class _Prox(NamedTuple):
    """The settings of `quantize`."""

    power: float
    beta: float
    growth: float
    steps: int


def _refine(
    w: Float[Tensor, "rows groups width"],
    real: Float[Tensor, "rows groups width"],
    start: tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]],
    grid: Grid,
    prox: _Prox,
) -> tuple[Float[Tensor, "rows groups"], Float[Tensor, "rows groups"]]:
    """The best scale and zero point of every group that the alternation met; `real` is 0 where a group is padded."""
    unit = scale = start[0][:, :, None]
    zero, beta = start[1][:, :, None], prox.beta
    least, found = torch.full_like(scale, torch.inf), (scale, zero)
    for step in range(prox.steps + 1):
        levels = ((w / scale).round_() + zero).clamp_(grid.low, grid.high) - zero  # as `encode`
        error = w - levels * scale
        cost = (error.abs().pow(prox.power) * real).sum(-1, keepdim=True)
        better = cost < least
        least = torch.where(better, cost, least)
        found = torch.where(better, scale, found[0]), torch.where(better, zero, found[1])
        if step == prox.steps:
            break
        size = error.abs() / unit
        outlying = (size - size.pow(prox.power - 1) / beta).clamp_(min=0) * unit * error.sign()
        kept = (w - outlying) * real
        if not grid.symmetric:
            moved = ((levels + zero - kept / scale) * real).sum(-1, keepdim=True) / real.sum(-1, keepdim=True)
            moved = moved.round_().clamp_(grid.low, grid.high)
            levels, zero = levels + zero - moved, moved
        fitted = (levels * kept).sum(-1, keepdim=True) / (levels.square() * real).sum(-1, keepdim=True)
        scale = torch.where(fitted > torch.finfo(torch.float32).tiny, grid.storable(fitted), scale)
        beta *= prox.growth
    return found[0].squeeze(-1), found[1].squeeze(-1)
