"""AutoRound against a loop over single weights, with every derivative written out."""

import numpy as np
import pytest
import torch
from test_golden_rtn import half, slow_group
from torch import nn

from triptych.compress.quantize import gptq
from triptych.compress.quantize.autoround import learn
from triptych.compress.quantize.grid import Grid


class Group:
    """One group of one row: its weights, its start, and what is learned."""

    def __init__(self, w, grid, codes, s, z):
        self.w, self.grid, self.s, self.z = w, grid, s, z
        self.low, self.high = -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1
        self.begin, self.v, self.alpha, self.beta = [], [0.0] * len(w), 1.0, 1.0
        for value, code in zip(w, codes, strict=True):
            t = value / s
            same = min(max(round(t) + z, self.low), self.high) == code
            self.begin.append(0.0 if same else min(max(t, code - z - 0.25), code - z + 0.25) - t)

    def levels(self):
        """Scale, zero and, for each weight, its code and whether the range holds it."""
        low, high = self.low, self.high
        if self.grid.symmetric:
            stretch, zero = self.alpha, 0
        else:
            stretch = (self.alpha * (high - self.z) - self.beta * (low - self.z)) / (high - low)
            zero = min(max(round(low - self.beta * (low - self.z) / stretch), low), high)
        scale = half(self.s * stretch)
        found = []
        for w, b, v in zip(self.w, self.begin, self.v, strict=True):
            code = round(w / scale + (b + v)) + zero
            found.append((min(max(code, low), high), low <= code <= high))
        return scale, zero, stretch, found

    def step(self, slopes, rate):
        """One signed step; `slopes` are those of the error by each restored weight."""
        low, high = self.low, self.high
        scale, zero, stretch, found = self.levels()
        by_scale = by_zero = 0.0
        for i, ((code, inside), g) in enumerate(zip(found, slopes, strict=True)):
            by_scale += g * ((code - zero) - (self.w[i] / scale if inside else 0.0))
            by_zero -= 0.0 if inside else g * scale
            if inside:
                self.v[i] = min(max(self.v[i] - rate * np.sign(g), -0.5), 0.5)
        most, least = max(self.w), min(self.w)
        if self.grid.symmetric:
            slope = {"alpha": by_scale * self.s, "beta": 0.0}
            reach = {"alpha": max(most, -least) / (high * self.s), "beta": 1.0}
        else:
            raw = low - self.beta * (low - self.z) / stretch
            held = low <= round(raw) <= high
            up, down = (high - self.z) / (high - low), -(low - self.z) / (high - low)
            z_by_stretch = self.beta * (low - self.z) / stretch**2
            slope = {"alpha": by_scale * self.s * up + held * by_zero * z_by_stretch * up}
            slope["beta"] = by_scale * self.s * down + held * by_zero * (z_by_stretch * down - (low - self.z) / stretch)
            reach = {
                "alpha": most / ((high - self.z) * self.s) if high > self.z else 1.0,
                "beta": least / ((low - self.z) * self.s) if low < self.z else 1.0,
            }
        for name, g in slope.items():
            moved = max(getattr(self, name) - rate * np.sign(0.0 if abs(g) < 1e-13 else g), 0.1)
            setattr(self, name, min(moved, max(1.0, reach[name])))


def slow_learn(weight, x, target, grid, steps, start=None):
    """Codes and scales after all steps, of the block y = W x; the best of start, best step and last."""
    rows, columns = weight.shape
    width = columns if grid.group is None else grid.group
    places = list(range(0, columns, width))
    groups = []
    for row in range(rows):
        for g, place in enumerate(places):
            w = list(weight[row, place : place + width])
            if start is None:
                s, z = slow_group(w, [1.0] * len(w), grid)
                low, high = -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1
                codes = [min(max(round(v / s) + z, low), high) for v in w]
            else:
                s, z = float(start.scale[row, g]), 0 if start.zero is None else int(start.zero[row, g])
                codes = start.values[row, place : place + width].tolist()
            groups.append(Group(w, grid, codes, s, z))

    def state():
        values, scales = np.zeros((rows, columns)), np.zeros((rows, len(places)))
        restored = np.zeros((rows, columns))
        for i, group in enumerate(groups):
            row, place = i // len(places), places[i % len(places)]
            scale, zero, _, found = group.levels()
            scales[row, i % len(places)] = scale
            for k, (code, _) in enumerate(found):
                values[row, place + k], restored[row, place + k] = code, (code - zero) * scale
        change = x @ restored.T - target
        return np.mean(change**2), 2 * change.T @ x / change.size, values, scales

    seen = [state()]
    for step in range(steps):
        slopes = state()[1]
        for i, group in enumerate(groups):
            row, place = i // len(places), places[i % len(places)]
            group.step(slopes[row, place : place + width], (1 - step / steps) / steps)
        seen.append(state())
    return min(seen, key=lambda entry: entry[0])


@pytest.mark.parametrize("seed", range(30))
def test_every_step_is_the_slow_one(seed):
    rng = np.random.default_rng(seed)
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 9))
    group = None if seed % 3 == 0 else int(rng.integers(1, columns + 2))
    grid = Grid(bits=int(rng.integers(2, 5)), group=group, symmetric=bool(seed % 2))
    weight, x = rng.standard_normal((rows, columns)), rng.standard_normal((20, columns))
    x, steps = x @ rng.standard_normal((columns, columns)), int(rng.integers(1, 12))
    target = x @ weight.T + 0.1 * rng.standard_normal((20, rows))
    block = nn.Sequential(nn.Linear(columns, rows, bias=False, dtype=torch.float64))
    block[0].weight.data = torch.from_numpy(weight)
    start = None
    if seed % 4 == 0:
        start = {"0": gptq.quantize(torch.from_numpy(weight), torch.from_numpy(x.T @ x / 20), grid)}
    error, _, values, scales = slow_learn(weight, x, target, grid, steps, start and start["0"])
    calls = [((torch.from_numpy(x),), {})]
    codes = learn(block, calls, [torch.from_numpy(target)], {"0": grid}, start, steps=steps)["0"]
    restored = codes.dequantize(torch.float64).numpy()
    assert np.mean((x @ restored.T - target) ** 2) == pytest.approx(error, rel=1e-10, abs=1e-20)
    np.testing.assert_array_equal(codes.values.numpy(), values)
    np.testing.assert_array_equal(codes.scale.numpy(), scales.astype(np.float32))
