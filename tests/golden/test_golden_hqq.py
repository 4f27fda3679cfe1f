"""HQQ against loops over single numbers, and what its measure of error buys."""

import numpy as np
import pytest
import torch
from test_golden_rtn import half, nearest, problem, slow_group

from triptych.compress.quantize import hqq, rtn
from triptych.compress.quantize.grid import Grid


def slow_refine(w, grid, power=0.7, beta=10.0, growth=1.01, steps=20):
    """Scale and zero point of one group."""
    bits, low, high = grid.bits, grid.low, grid.high
    s, z = slow_group(w, [1.0] * len(w), grid)
    unit, best = s, None
    for step in range(steps + 1):
        codes = [nearest(v, s, z, bits) for v in w]
        errors = [v - (q - z) * s for v, q in zip(w, codes, strict=True)]
        cost = sum(abs(e) ** power for e in errors)
        if best is None or cost < best[0]:
            best = (cost, s, z)
        if step == steps:
            break
        kept = []
        for v, e in zip(w, errors, strict=True):
            size = abs(e) / unit
            shrunk = max(0.0, size - size ** (power - 1) / beta) * unit if size > 0 else 0.0
            kept.append(v - (shrunk if e > 0 else -shrunk))
        if not grid.symmetric:
            z = min(max(round(sum(q - k / s for q, k in zip(codes, kept, strict=True)) / len(w)), low), high)
        energy = sum((q - z) ** 2 for q in codes)
        fitted = sum((q - z) * k for q, k in zip(codes, kept, strict=True)) / energy if energy else 0.0
        s = half(fitted) if fitted > 1.2e-38 else s
        beta *= growth
    return best[1], best[2]


@pytest.mark.parametrize("seed", range(100))
def test_codes_are_exact_in_float64(seed):
    weight, _, grid = problem(seed)
    rows, columns = weight.shape
    width = columns if grid.group is None else grid.group
    codes = hqq.quantize(torch.from_numpy(weight), None, grid)
    for row in range(rows):
        for g, start in enumerate(range(0, columns, width)):
            part = list(weight[row, start : start + width])
            s, z = slow_refine(part, grid)
            assert codes.scale[row, g].item() == np.float32(s)
            assert codes.zero is None or codes.zero[row, g].item() == z
            expected = [nearest(v, s, z, grid.bits) for v in part]
            assert codes.values[row, start : start + width].tolist() == expected


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_group_is_worse_by_its_own_measure_and_most_are_better(bits, symmetric):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(40, 100, generator=generator) * 0.02
    weight[torch.rand(weight.shape, generator=generator) < 0.02] *= 8
    grid = Grid(bits=bits, group=32, symmetric=symmetric)

    def cost(method):
        error = (weight - method(weight, None, grid).dequantize()).abs().pow(0.7)
        return torch.nn.functional.pad(error, (0, 28)).reshape(40, 4, 32).sum(-1)

    ours, start = cost(hqq.quantize), cost(rtn.quantize)
    assert (ours <= start * (1 + 1e-5)).all()
    assert (ours < start * 0.999).float().mean() > 0.5
    assert ours.sum() < 0.99 * start.sum()


def test_a_matrix_of_zeros_stays():
    for symmetric in (True, False):
        codes = hqq.quantize(torch.zeros(3, 5), None, Grid(bits=3, group=2, symmetric=symmetric))
        assert codes.dequantize().eq(0).all()
