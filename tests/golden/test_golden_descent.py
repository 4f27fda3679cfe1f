"""Coordinate descent against loops that try every level of one code, and least squares over whole outputs for the scales."""

import numpy as np
import pytest
import torch
from test_golden_rtn import half, problem

from triptych.compress.quantize import descent, gptq
from triptych.compress.quantize.grid import Grid, output_error


def slow_descent(weight, moment, start, rounds, sweeps, damping=0.05):  # noqa: C901 - loops over single numbers
    """Levels and scales by exhaustion: each code in turn takes the level of least error, each row its best scales."""
    grid, columns = start.grid, weight.shape[1]
    H = moment + damping * np.mean(np.diag(moment)) * np.eye(columns)
    root = np.linalg.cholesky(H).T  # |root (w - q)|^2 is the error
    place = np.arange(columns) // grid.width(columns)
    zeros = np.zeros(start.scale.shape) if start.zero is None else start.zero.numpy().astype(float)
    levels = start.values.numpy() - zeros[:, place]
    scales = start.scale.double().numpy()

    def refit():
        for w, a, s in zip(weight, levels, scales, strict=True):
            used = [g for g in range(len(s)) if a[place == g].any()]
            rows = np.stack([root @ np.where(place == g, a, 0) for g in used], 1) if used else np.zeros((columns, 0))
            fitted, tried = np.linalg.lstsq(rows, root @ w, rcond=None)[0] if used else [], s.copy()
            for g, value in zip(used, fitted, strict=True):
                if value > 0 or grid.mirrored:
                    tried[g] = half(value)
            if lost(w, a * tried[place]) < lost(w, a * s[place]) * (1 - 1e-12):
                s[:] = tried

    def lost(w, q):
        return np.square(root @ (w - q)).sum()

    for _ in range(rounds):
        refit()
        for _ in range(sweeps):
            for row, (w, a, s) in enumerate(zip(weight, levels, scales, strict=True)):
                for j in range(columns):
                    z = zeros[row, place[j]]
                    choices = np.arange(grid.low, grid.high + 1) - z
                    tried = np.repeat(a[None], len(choices), 0)
                    tried[:, j] = choices
                    a[j] = choices[np.argmin([lost(w, t * s[place]) for t in tried])]
    refit()
    return levels + zeros[:, place], scales


@pytest.mark.parametrize("seed", range(40))
def test_codes_are_those_of_exhaustion(seed):
    weight, moment, grid = problem(seed)
    grid = grid.model_copy(update={"bits": min(grid.bits, 4)})  # every level is tried
    W, H = torch.from_numpy(weight), torch.from_numpy(moment)
    rounds, sweeps = 1 + seed % 3, 1 + seed % 2
    expected, scale = slow_descent(weight, moment, gptq.quantize(W, H, grid, damping=0.05), rounds, sweeps)
    codes = descent.quantize(W, H, grid, rounds=rounds, sweeps=sweeps, block=1 + seed % 7)
    np.testing.assert_allclose(codes.scale.numpy(), scale.astype(np.float32), rtol=2e-3)  # one float16 step: a tie
    np.testing.assert_array_equal(codes.values.numpy(), expected)


@pytest.mark.parametrize("seed", range(10))
def test_behind_rounded_layers_the_codes_are_those_of_the_target(seed):
    weight, moment, grid = problem(seed)
    grid = grid.model_copy(update={"bits": min(grid.bits, 4)})
    columns = weight.shape[1]
    drift = 0.1 * moment @ np.random.default_rng(seed).standard_normal((columns, columns))
    damped = moment + 0.05 * np.mean(np.diag(moment)) * np.eye(columns)
    target = weight + weight @ drift @ np.linalg.inv(damped)
    W, H, T = (torch.from_numpy(matrix) for matrix in (weight, moment, target))
    expected, scale = slow_descent(target, moment, gptq.quantize(T, H, grid, damping=0.05), 2, 1)
    codes = descent.quantize(W, H, grid, drift=torch.from_numpy(drift), rounds=2, sweeps=1)
    np.testing.assert_allclose(codes.scale.numpy(), scale.astype(np.float32), rtol=2e-3)
    np.testing.assert_array_equal(codes.values.numpy(), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_it_is_better_than_gptq_on_every_row(bits):
    draw = torch.Generator().manual_seed(bits)
    weight, x = torch.randn(16, 96, generator=draw), torch.randn(400, 96, generator=draw)
    moment, grid = x.T @ x / 400 + 0.5, Grid(bits=bits, group=32, mirrored=True)
    before, after = gptq.quantize(weight, moment, grid, damping=0.05), descent.quantize(weight, moment, grid)
    damped = moment + 0.05 * moment.diagonal().mean() * torch.eye(96)
    errors = [
        [output_error(w[None], q[None], damped) for w, q in zip(weight, codes.dequantize(), strict=True)]
        for codes in (before, after)
    ]
    assert all(b >= a * (1 - 1e-5) for b, a in zip(*errors, strict=True))
    assert sum(errors[1]) < 0.98 * sum(errors[0])


def test_a_group_of_zeros_keeps_its_scale_and_rows_of_a_grouped_convolution_their_own_moment():
    grid, rng = Grid(bits=3, group=4), np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal((4, 8)))
    weight[0, :4] = 0
    x = rng.standard_normal((2, 8, 40))
    moments = torch.from_numpy(x @ x.transpose(0, 2, 1) / 40)
    together = descent.quantize(weight, moments, grid)
    apart = [
        descent.quantize(weight[part], m, grid) for part, m in zip((slice(0, 2), slice(2, 4)), moments, strict=True)
    ]
    assert torch.equal(together.values, torch.cat([codes.values for codes in apart]))
    assert not together.values[0, :4].any()
    assert bool(together.scale.isfinite().all())
