"""Round-to-nearest against loops over single numbers."""

import numpy as np
import pytest
import torch

from triptych.compress.quantize import rtn
from triptych.compress.quantize.grid import OVERSHOOTS, Grid


def half(value):
    """The scale as it would be stored: float16 where float16 is exact enough to be normal."""
    if 2.0**-14 <= abs(value) <= 65504:
        return float(np.float16(value))
    return float(np.float32(value))


def nearest(w, s, z, bits):
    return min(
        max(round(w / s) + z, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1
    )  # Python rounds ties to even, as torch does


def slow_group(w, h, grid):
    """Scale and zero point of one group: of the codes that the tries lead to, those that leave least at their best scale."""
    bits, symmetric = grid.bits, grid.symmetric
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    least, most = min(0.0, *w), max(0.0, *w)
    levels = high if symmetric else high - low
    span = max(-least, most) / high if symmetric else (most - least) / levels
    span = span if span > 1.2e-38 else 1.0
    z = 0 if symmetric else min(max(round(low - least / span), low), high)
    gained, best = 0.0, span
    for sign in (1, -1) if grid.mirrored else (1,):
        for overshoot in OVERSHOOTS:
            if overshoot > 4 * levels:
                continue
            q = [nearest(wj, sign * span * levels / (levels + overshoot), z, bits) - z for wj in w]
            size = sum(hj * qj * qj for hj, qj in zip(h, q, strict=True))
            product = sum(hj * wj * qj for wj, hj, qj in zip(w, h, q, strict=True))
            if size and product**2 / size > gained * (1 + 1e-12):
                gained, best = product**2 / size, product / size
    return half(best), z


def slow_scales(weight, importance, grid):
    rows, columns = weight.shape
    width = columns if grid.group is None else grid.group
    starts = range(0, columns, width)
    scale, zero = np.zeros((rows, len(starts))), np.zeros((rows, len(starts)))
    for row in range(rows):
        for g, start in enumerate(starts):
            part = slice(start, start + width)
            scale[row, g], zero[row, g] = slow_group(list(weight[row, part]), list(importance[row, part]), grid)
    return scale, zero


def slow_rtn(weight, importance, grid):
    """Codes, scales and zero points, in float64."""
    rows, columns = weight.shape
    scale, zero = slow_scales(weight, importance, grid)
    width = columns if grid.group is None else grid.group
    codes = np.zeros((rows, columns))
    for row in range(rows):
        for j in range(columns):
            codes[row, j] = nearest(weight[row, j], scale[row, j // width], zero[row, j // width], grid.bits)
    return codes, scale, zero


def problem(seed):
    """A random shape, grid, weight and moment; widths are often ones that the group does not divide."""
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 5)), int(rng.integers(1, 20))
    group = None if seed % 3 == 0 else int(rng.integers(1, columns + 3))
    grid = Grid(bits=int(rng.integers(2, 9)), group=group, symmetric=bool(seed % 2), mirrored=seed % 4 == 3)
    weight = rng.standard_normal((rows, columns)) * rng.choice([1e-6, 0.05, 3.0])
    x = rng.standard_normal((4 * columns, columns)) @ rng.standard_normal((columns, columns))
    return weight, x.T @ x / len(x), grid


@pytest.mark.parametrize("seed", range(40))
def test_codes_are_exact_in_float64(seed):
    weight, moment, grid = problem(seed)
    importance = np.broadcast_to(np.diag(moment), weight.shape) if seed % 4 else np.ones_like(weight)
    expected, scale, zero = slow_rtn(weight, importance, grid)
    codes = rtn.quantize(torch.from_numpy(weight), torch.from_numpy(moment) if seed % 4 else None, grid)
    np.testing.assert_array_equal(codes.scale.numpy(), scale.astype(np.float32))
    np.testing.assert_array_equal(codes.values.numpy(), expected)
    if not grid.symmetric:
        np.testing.assert_array_equal(codes.zero.numpy(), zero)


@pytest.mark.parametrize("seed", range(12))
def test_float32_is_as_good_as_float64(seed):
    """A tie may fall the other way in float32, or a scale that is as good be chosen; the error may not differ by what float16
    scales cost."""
    weight, moment, grid = problem(seed)
    weight = weight.astype(np.float32).astype(np.float64)
    importance = np.broadcast_to(np.diag(moment), weight.shape)
    expected, scale, zero = slow_rtn(weight, importance, grid)
    width = weight.shape[1] if grid.group is None else grid.group
    place = np.arange(weight.shape[1]) // width
    slow_error = (importance * ((expected - zero[:, place]) * scale[:, place] - weight) ** 2).sum()
    codes = rtn.quantize(torch.from_numpy(weight).float(), torch.from_numpy(moment).float(), grid)
    error = (importance * (codes.dequantize(torch.float64).numpy() - weight) ** 2).sum()
    size = (importance * weight**2).sum()
    assert error == pytest.approx(slow_error, rel=1e-5, abs=1e-6 * size)
