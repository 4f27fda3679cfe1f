"""Scale searches against loops over single numbers."""

import numpy as np
import pytest
import torch
from test_golden_rtn import problem, slow_rtn

from triptych.compress.quantize import migrate


def slow_awq(weights, moment, grid, size):
    """s of the first exponent with the least cost, and all costs."""
    columns, costs, scales = len(moment), [], []
    for step in range(20):
        s = np.array([max(v, 1e-4 * max(size)) ** (step / 20) for v in size])
        s = s / np.sqrt(max(s) * min(s))
        cost = 0.0
        for weight in weights:
            grown = weight * s
            importance = np.broadcast_to(np.diag(moment) / s**2, weight.shape)
            codes, scale, zero = slow_rtn(grown, importance, grid)
            place = np.arange(columns) // (columns if grid.group is None else grid.group)
            change = weight - (codes - zero[:, place]) * scale[:, place] / s
            for row in change:
                cost += row @ moment @ row
        costs.append(cost)
        scales.append(s)
    return scales[int(np.argmin(costs))], costs


@pytest.mark.parametrize("seed", range(1, 7))
def test_awq_takes_the_best_exponent(seed):
    weight, moment, grid = problem(seed)
    other = np.random.default_rng(seed).standard_normal((2, weight.shape[1]))
    size = np.sqrt(np.diag(moment)) if seed % 2 else np.random.default_rng(seed).uniform(0, 3, weight.shape[1])
    expected, costs = slow_awq([weight, other], moment, grid, size)
    ours = migrate.awq_scales(
        [torch.from_numpy(weight), torch.from_numpy(other)],
        torch.from_numpy(moment),
        grid,
        mean_abs=None if seed % 2 else torch.from_numpy(size),
    )
    if (
        np.sum(np.array(costs) <= min(costs) * (1 + 1e-4)) == 1
    ):  # float32 may take the other one of two that are as good
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(100))
def test_smoothquant_scales(seed):
    rng = np.random.default_rng(seed)
    columns, alpha = int(rng.integers(1, 9)), float(rng.uniform(0, 1))
    weights = [rng.standard_normal((int(rng.integers(1, 4)), columns)) for _ in range(int(rng.integers(1, 4)))]
    largest = rng.uniform(0.01, 50, columns)
    largest[rng.integers(columns)] = 0 if seed % 3 == 0 else 1
    expected = [
        largest[j] ** alpha / max(abs(w[i, j]) for w in weights for i in range(len(w))) ** (1 - alpha)
        if largest[j] > 0
        else 1.0
        for j in range(columns)
    ]
    ours = migrate.smoothquant_scales([torch.from_numpy(w) for w in weights], torch.from_numpy(largest), alpha)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)
