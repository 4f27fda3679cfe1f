"""GPTQ against the rule it is derived from: after each column, the best change of all columns not yet rounded.

The twin is optimal brain quantisation in a fixed order: for the columns F that are left, the change of w_F that least moves the
outputs when w_j becomes q_j is -(w_j - q_j) / [H_F^-1]_jj * [H_F^-1]_:j. It inverts H_F afresh for every column.
"""

import numpy as np
import pytest
import torch
from test_golden_rtn import nearest, problem, slow_scales

from triptych.compress.quantize import gptq
from triptych.compress.quantize.grid import Grid, join, output_error


def slow_gptq(weight, moment, grid, damping=0.01, act_order=True):
    """Codes, scales and zero points of a matrix, one column and one inverse at a time, in float64."""
    rows, columns = weight.shape
    H = moment + damping * np.mean(np.diag(moment)) * np.eye(columns)
    scale, zero = slow_scales(weight, np.broadcast_to(np.diag(H), weight.shape), grid)
    width, bits = columns if grid.group is None else grid.group, grid.bits
    order = sorted(range(columns), key=lambda j: -H[j, j]) if act_order else list(range(columns))
    left, w, codes = list(order), weight.copy(), np.zeros((rows, columns))
    while left:
        j = left[0]
        inverse = np.linalg.inv(H[np.ix_(left, left)])
        for row in range(rows):
            s, z = scale[row, j // width], zero[row, j // width]
            codes[row, j] = nearest(w[row, j], s, z, bits)
            error = w[row, j] - (codes[row, j] - z) * s
            for k, column in enumerate(left):
                w[row, column] -= error / inverse[0, 0] * inverse[k, 0]
        left = left[1:]
    return codes, scale, zero


@pytest.mark.parametrize("seed", range(100))
def test_codes_are_exact_in_float64(seed):
    weight, moment, grid = problem(seed)
    act_order = seed % 5 != 0
    expected, scale, zero = slow_gptq(weight, moment, grid, act_order=act_order)
    codes = gptq.quantize(
        torch.from_numpy(weight), torch.from_numpy(moment), grid, act_order=act_order, block=int(1 + seed % 7)
    )
    np.testing.assert_array_equal(codes.scale.numpy(), scale.astype(np.float32))
    np.testing.assert_array_equal(codes.values.numpy(), expected)
    if not grid.symmetric:
        np.testing.assert_array_equal(codes.zero.numpy(), zero)


@pytest.mark.parametrize("seed", range(100, 115))
def test_float32_loses_nothing(seed, monkeypatch):
    """On the twin's scales the outputs are its own to 1e-5; where float32 breaks a tie the other way later columns follow, and they
    are no worse by 2 %."""
    weight, moment, grid = problem(seed)
    weight = weight.astype(np.float32).astype(np.float64)
    expected, scale, zero = slow_gptq(weight, moment, grid)
    scales = torch.from_numpy(scale).float(), torch.from_numpy(np.asarray(zero, dtype=np.float32))
    monkeypatch.setattr(gptq, "search_scale", lambda *_: scales)
    ours, exact, ties = compared(weight, moment, grid, expected, scale, zero)
    assert ours == pytest.approx(exact, rel=1e-5 if ties == 0 else 0.02, abs=1e-12)
    assert ties <= 0.05 * expected.size + 1


@pytest.mark.parametrize("seed", range(100, 115))
def test_scales_found_in_float32_are_as_good(seed):
    """Two scales may be alike in float32, and float16 stores either: what they make of the outputs differs by no more than that."""
    weight, moment, grid = problem(seed)
    weight = weight.astype(np.float32).astype(np.float64)
    expected, scale, zero = slow_gptq(weight, moment, grid)
    ours, exact, ties = compared(weight, moment, grid, expected, scale, zero)
    assert ours == pytest.approx(exact, rel=1e-3 if ties == 0 else 0.02, abs=1e-7)


def compared(weight, moment, grid, expected, scale, zero):
    """The error of ours in float32, that of the twin's codes, and how many codes differ."""
    place = np.arange(weight.shape[1]) // (weight.shape[1] if grid.group is None else grid.group)
    slow = torch.from_numpy((expected - zero[:, place]) * scale[:, place])
    codes = gptq.quantize(torch.from_numpy(weight).float(), torch.from_numpy(moment), grid)
    H = torch.from_numpy(moment)
    exact, ours = (output_error(torch.from_numpy(weight), w, H) for w in (slow, codes.dequantize(torch.float64)))
    return ours, exact, int((codes.values.numpy() != expected).sum())


def test_wide_matrices_cross_blocks():
    """More columns than a block, a group that straddles blocks, and a shorter last group."""
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((2, 150)), rng.standard_normal((400, 150)) @ rng.standard_normal((150, 150))
    moment, grid = x.T @ x / 400, Grid(bits=3, group=40)
    expected, *_ = slow_gptq(weight, moment, grid)
    codes = gptq.quantize(torch.from_numpy(weight), torch.from_numpy(moment), grid)
    np.testing.assert_array_equal(codes.values.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_factor_in_the_moments_place_rounds_some_rows_at_a_time(dtype, monkeypatch):
    monkeypatch.setattr(gptq, "PANEL", 7)
    rng, grid = np.random.default_rng(0), Grid(bits=3, group=20)
    weight = torch.from_numpy(rng.standard_normal((30, 60))).to(dtype)
    x = torch.from_numpy(rng.standard_normal((20, 60))).to(dtype)  # fewer inputs than columns: singular
    moment = x.T @ x / 20
    whole = gptq.quantize(weight, moment, grid, damping=1e-20)
    assert whole.notes[0].startswith("the second moments are singular: damping was raised from 1e-20")
    factor = gptq.factorise(moment, weight.shape, damping=1e-20, overwrite=True)
    assert factor.lower.data_ptr() == moment.data_ptr()
    parts = [gptq.quantize(part, factor, grid) for part in weight.split(11)]
    np.testing.assert_array_equal(join(parts).values.numpy(), whole.values.numpy())


def test_blocks_of_a_grouped_convolution_are_independent():
    problems = [problem(seed) for seed in (2, 2 + 3 * 7)]
    rng, grid = np.random.default_rng(5), Grid(bits=4, group=4, symmetric=False)
    weight = [rng.standard_normal((3, 9)) for _ in problems]
    moments = []
    for _ in problems:
        x = rng.standard_normal((30, 9)) @ rng.standard_normal((9, 9))
        moments.append(x.T @ x / 30)
    together = gptq.quantize(torch.from_numpy(np.concatenate(weight)), torch.from_numpy(np.stack(moments)), grid)
    apart = [slow_gptq(w, m, grid)[0] for w, m in zip(weight, moments, strict=True)]
    np.testing.assert_array_equal(together.values.numpy(), np.concatenate(apart))
