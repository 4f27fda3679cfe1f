"""The solver against trying everything, and against dynamic programming."""

import itertools

import numpy as np
import pytest

from triptych.compress.budget import Option, lower_bound, solve
from triptych.errors import BudgetError


def brute_force(options, limits, fixed):
    """Least loss of all combinations within the limits; None when there is none."""
    best = None
    for combination in itertools.product(*options.values()):
        fits = all(
            fixed.get(k, 0) + sum(option.costs[k] for option in combination) <= limit for k, limit in limits.items()
        )
        loss = sum(option.loss for option in combination)
        if fits and (best is None or loss < best):
            best = loss
    return best


def dynamic_programme(options, limit):
    """least[b] = least loss of the layers so far that spends exactly b bytes."""
    least = {0: 0.0}
    for layer in options.values():
        following: dict[int, float] = {}
        for spent, loss in least.items():
            for option in layer:
                total = spent + option.costs["bytes"]
                if total <= limit:
                    following[total] = min(following.get(total, np.inf), loss + option.loss)
        least = following
    return min(least.values()) if least else None


def random_options(rng, layers, choices, costs):
    return {
        f"layer{i}": [
            Option(f"option{j}", {k: int(rng.integers(1, 30)) for k in costs}, float(rng.random() ** 3))
            for j in range(int(rng.integers(1, choices + 1)))
        ]
        for i in range(layers)
    }


@pytest.mark.parametrize("seed", range(100))
def test_solve_equals_trying_everything(seed):
    rng = np.random.default_rng(seed)
    costs = ["bytes", "latency_ms", "memory"][: int(rng.integers(1, 4))]
    layers = int(rng.integers(1, 6))
    options = random_options(rng, layers, 5, costs)
    fixed = {"bytes": int(rng.integers(0, 10))}
    limits = {k: int(rng.integers(4, 25)) * layers + fixed.get(k, 0) for k in costs}
    expected = brute_force(options, limits, fixed)
    if expected is None:
        with pytest.raises(BudgetError):
            solve(options, limits, fixed)
        return
    choice = solve(options, limits, fixed)
    assert choice.loss == pytest.approx(expected, rel=1e-10)
    assert choice.gap == pytest.approx(0, abs=1e-8)
    assert lower_bound(options, limits, choice.prices, fixed) <= expected + 1e-9
    for k, limit in limits.items():
        assert fixed.get(k, 0) + sum(option.costs[k] for option in choice.options.values()) <= limit


@pytest.mark.parametrize("seed", range(20))
def test_solve_equals_dynamic_programming(seed):
    rng = np.random.default_rng(1000 + seed)
    options = random_options(rng, 30, 8, ["bytes"])
    smallest = sum(min(option.costs["bytes"] for option in layer) for layer in options.values())
    limit = smallest + int(rng.integers(0, 250))
    expected = dynamic_programme(options, limit)
    assert expected is not None
    assert solve(options, {"bytes": limit}).loss == pytest.approx(expected, rel=1e-10)
