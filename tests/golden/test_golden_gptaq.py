"""GPTAQ against least squares: after each column, the best values of all columns not yet rounded, solved afresh.

The twin knows no target and no factor. It holds the samples' moments and, with the rounded columns fixed, minimises
|W X - Q Xhat|^2 + damping |W - Q|^2 over the columns that are left.
"""

import numpy as np
import pytest
import torch
from test_golden_gptq import slow_gptq
from test_golden_rtn import nearest, problem, slow_scales

from triptych.compress.quantize import gptaq, gptq
from triptych.compress.quantize.grid import Grid
from triptych.errors import InputError, NumericsError


def samples(seed, columns, size=0.3):
    """Inputs of the original and of the compressed model, [columns, samples]."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((columns, columns)) @ rng.standard_normal((columns, 5 * columns + 3))
    return x, x + size * rng.standard_normal((columns, columns)) @ rng.standard_normal(x.shape)


def slow_gptaq(weight, x, xhat, grid, damping=0.01, act_order=True):
    """Codes, scales and zero points, by one least-squares problem a column."""
    rows, columns = weight.shape
    moment = xhat @ xhat.T / x.shape[1]
    ridge = np.sqrt(damping * np.mean(np.diag(moment)) * x.shape[1]) * np.eye(columns)
    inputs = np.concatenate([xhat, ridge], 1)  # damping as samples on which the weight is its own answer
    wanted = weight @ np.concatenate([x, ridge], 1)
    energy = (inputs**2).sum(1)
    free = np.linalg.lstsq(inputs.T, wanted.T, rcond=None)[0].T
    scale, zero = slow_scales(free, np.broadcast_to(energy, weight.shape), grid)
    width = columns if grid.group is None else grid.group
    left = sorted(range(columns), key=lambda j: -energy[j]) if act_order else list(range(columns))
    fixed, codes = np.zeros_like(weight), np.zeros_like(weight)
    while left:
        best = np.linalg.lstsq(inputs[left].T, (wanted - fixed @ inputs).T, rcond=None)[0].T
        j = left.pop(0)
        for row in range(rows):
            s, z = scale[row, j // width], zero[row, j // width]
            codes[row, j] = nearest(best[row, 0], s, z, grid.bits)
            fixed[row, j] = (codes[row, j] - z) * s
    return codes, scale


def moments(x, xhat):
    return torch.from_numpy(xhat @ xhat.T / x.shape[1]), torch.from_numpy((x - xhat) @ xhat.T / x.shape[1])


@pytest.mark.parametrize("seed", range(100))
def test_codes_are_those_of_least_squares(seed):
    weight, _, grid = problem(seed)
    if seed % 7 == 0:
        weight = weight.astype(np.float16).astype(np.float64)
    x, xhat = samples(seed, weight.shape[1])
    moment, drift = moments(x, xhat)
    act_order = seed % 5 != 0
    expected, scale = slow_gptaq(weight, x, xhat, grid, act_order=act_order)
    codes = gptaq.quantize(
        torch.from_numpy(weight), moment, grid, drift=drift, act_order=act_order, block=int(1 + seed % 7)
    )
    np.testing.assert_array_equal(codes.scale.numpy(), scale.astype(np.float32))
    np.testing.assert_array_equal(codes.values.numpy(), expected)


@pytest.mark.parametrize("seed", range(0, 20, 3))
def test_without_drift_it_is_gptq(seed):
    weight, moment, grid = problem(seed)
    expected = gptq.quantize(torch.from_numpy(weight), torch.from_numpy(moment), grid)
    for drift in (None, torch.zeros(moment.shape, dtype=torch.float64)):
        codes = gptaq.quantize(torch.from_numpy(weight), torch.from_numpy(moment), grid, drift=drift)
        assert torch.equal(codes.values, expected.values)
        assert torch.equal(codes.scale, expected.scale)
    np.testing.assert_array_equal(expected.values.numpy(), slow_gptq(weight, moment, grid)[0])


def published(weight, moment, drift, grid, damping=0.01):
    """The paper's loop in column order: column j's share of the drift goes to the columns after it."""
    columns = weight.shape[1]
    H = moment + damping * np.mean(np.diag(moment)) * np.eye(columns)
    U = np.linalg.cholesky(np.linalg.inv(H)).T
    P = np.triu(drift @ U.T, 1) @ U
    scale, zero = slow_scales(weight, np.broadcast_to(np.diag(H), weight.shape), grid)
    spread = np.arange(columns) // (columns if grid.group is None else grid.group)
    S, Z, w, Q = scale[:, spread], zero[:, spread], weight.copy(), np.zeros_like(weight)
    for j in range(columns):
        q = np.clip(np.round(w[:, j] / S[:, j]) + Z[:, j], grid.low, grid.high)
        Q[:, j] = (q - Z[:, j]) * S[:, j]
        value, error = w[:, j].copy(), (w[:, j] - Q[:, j]) / U[j, j]
        w[:, j:] += np.outer(value, P[j, j:]) - np.outer(error, U[j, j:])
    return Q


def test_the_published_update_is_what_later_columns_can_undo_of_one_column():
    """Row j of P: argmin over the columns after j of |(x_j - xhat_j) - delta xhat|^2, on the same damped moment."""
    x, xhat = samples(3, 9)
    moment, drift = (m.numpy() for m in moments(x, xhat))
    U = np.linalg.cholesky(np.linalg.inv(moment)).T
    P = np.triu(drift @ U.T, 1) @ U
    for j in range(8):
        later = slice(j + 1, 9)
        solved = np.linalg.lstsq(xhat[later].T, x[j] - xhat[j], rcond=None)[0]
        np.testing.assert_allclose(P[j, later], solved, rtol=1e-8, atol=1e-10)


def test_the_target_beats_the_published_update_and_gptq():
    """Mean error of 12 layers, on the outputs of the original model."""
    ours, theirs, plain = [], [], []
    grid = Grid(bits=3, group=8)
    for seed in range(12):
        weight = np.random.default_rng(seed + 50).standard_normal((8, 24))
        x, xhat = samples(seed, 24)
        moment, drift = moments(x, xhat)
        W = torch.from_numpy(weight)

        def lost(restored, x=x, xhat=xhat, weight=weight):
            return np.square(weight @ x - restored @ xhat).sum() / np.square(weight @ x).sum()

        aware = gptaq.quantize(W, moment, grid, drift=drift, act_order=False)
        blind = gptq.quantize(W, moment, grid, act_order=False)
        ours.append(lost(aware.dequantize(torch.float64).numpy()))
        plain.append(lost(blind.dequantize(torch.float64).numpy()))
        theirs.append(lost(published(weight, moment.numpy(), drift.numpy(), grid)))
    assert np.mean(ours) < np.mean(theirs) < np.mean(plain), (np.mean(ours), np.mean(theirs), np.mean(plain))


def test_blocks_of_a_grouped_convolution_have_drifts_of_their_own():
    rng, grid = np.random.default_rng(0), Grid(bits=4, group=4, symmetric=False)
    parts = [(rng.standard_normal((3, 7)), *samples(seed, 7)) for seed in range(2)]
    pairs = [moments(x, xhat) for _, x, xhat in parts]
    weight = torch.from_numpy(np.concatenate([w for w, *_ in parts]))
    moment, drift = (torch.stack(both) for both in zip(*pairs, strict=True))
    together = gptaq.quantize(weight, moment, grid, drift=drift)
    apart = [slow_gptaq(*part, grid)[0] for part in parts]
    np.testing.assert_array_equal(together.values.numpy(), np.concatenate(apart))


def test_a_wrong_drift_is_refused():
    weight, moment, grid = torch.ones(2, 3), torch.eye(3), Grid(bits=4)
    with pytest.raises(InputError, match=r"GPTAQ of 3 columns in 1 blocks got a drift of shape \(4, 4\)"):
        gptaq.quantize(weight, moment, grid, drift=torch.zeros(4, 4))
    with pytest.raises(NumericsError, match="drift for GPTAQ holds NaN"):
        gptaq.quantize(weight, moment, grid, drift=torch.full((3, 3), torch.nan))
