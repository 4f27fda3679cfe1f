"""The vectorised bootstrap against slow loops that copy rows, as the definition of resampling says."""

import math

import numpy as np
import pytest

from triptych.evaluate.bootstrap import kept_contribution, paired_bootstrap


def slow_interval(before, after, columns, *, repeats, seed, confidence):
    """Draw groups of each column, and copy a row once for every combination of drawn groups that has it."""
    rows = len(before)
    columns = columns or [list(range(rows))]
    generators = np.random.default_rng(seed).spawn(len(columns))
    values = []
    for _ in range(repeats):
        draws = []
        for column, generator in zip(columns, generators, strict=True):
            names = list(dict.fromkeys(column))
            draws.append([names[generator.integers(0, len(names))] for _ in names])
        copies = []
        for row in range(rows):
            combinations = 1
            for column, drawn in zip(columns, draws, strict=True):
                combinations *= sum(1 for group in drawn if group == column[row])
            copies.extend([row] * combinations)
        denominator = math.fsum(before[row] for row in copies)
        values.append(math.fsum(after[row] for row in copies) / denominator if denominator > 0 else None)
    cut = math.floor(round((1 - confidence) / 2 * (repeats - 1), 6))
    low = sorted(-math.inf if value is None else value for value in values)[cut]
    high = sorted(math.inf if value is None else value for value in values)[repeats - 1 - cut]
    return math.fsum(after) / math.fsum(before), low, high


@pytest.mark.parametrize("case", range(40))
def test_equals_the_slow_loops(case):
    rng = np.random.default_rng(case)
    rows = int(rng.integers(2, 30))
    repeats = int(rng.integers(1, 40))
    confidence = float(rng.uniform(0.5, 0.99))
    before, after = rng.random(rows) + 0.01, rng.random(rows)
    columns = []
    if rows >= 8:  # crossing columns: the first rows lay two groups of each column against two of every other
        for place in range(int(rng.integers(0, 4))):
            column = rng.integers(0, int(rng.integers(2, 6)), rows)
            column[:8] = (np.arange(8) >> place) & 1
            columns.append(column)
    got = paired_bootstrap(before, after, columns, repeats=repeats, seed=case, confidence=confidence)
    lists = [list(column) for column in columns]
    want = slow_interval(before, after, lists, repeats=repeats, seed=case, confidence=confidence)
    np.testing.assert_allclose(got, want, rtol=1e-10)


@pytest.mark.parametrize("case", range(10))
def test_contribution_equals_the_slow_loops_and_an_undefined_repeat_is_infinite(case):
    rng = np.random.default_rng(100 + case)
    rows = 12
    scores = [(rng.random(rows) < share).astype(float) for share in (0.9, 0.6, 0.9, 0.6)]
    speakers = rng.integers(0, 4, rows)
    speakers[:2] = 0, 1
    before, after = scores[0] - scores[1], scores[2] - scores[3]
    if before.sum() <= 0:
        before[0] += 1 - before.sum()
        scores[0] = before + scores[1]
    got = kept_contribution(*scores, [speakers], repeats=60, seed=case, confidence=0.9)
    want = slow_interval(before, after, [list(speakers)], repeats=60, seed=case, confidence=0.9)
    np.testing.assert_allclose(got, want, rtol=1e-10)
