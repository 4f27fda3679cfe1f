"""FP8 against a search through all numbers of the format, written out from its bits."""

import numpy as np
import pytest
import torch
from test_golden_rtn import half

from triptych.compress.quantize import float8


def numbers():
    """Every non-negative E4M3 number with its mantissa's last bit: 8 subnormals, then 1.mmm * 2^(e - 7); 0x7F is NaN."""
    found = []
    for code in range(127):
        exponent, mantissa = code >> 3, code & 7
        value = mantissa / 8 * 2.0**-6 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        found.append((value, code & 1))
    return found


def slow_nearest(value, table):
    """Nearest number, ties to the even code."""
    size = abs(value)
    return float(np.copysign(min(table, key=lambda entry: (abs(entry[0] - size), entry[1]))[0], value))


@pytest.mark.parametrize("seed", range(100))
def test_weights_are_at_the_nearest_numbers(seed):
    rng, table = np.random.default_rng(seed), numbers()
    rows, columns = int(rng.integers(1, 4)), int(rng.integers(1, 12))
    weight = (rng.standard_normal((rows, columns)) ** 3 * rng.choice([1e-6, 0.05, 30])).astype(np.float32)
    ours = float8.quantize(torch.from_numpy(weight), None)
    exact = np.abs(weight).max(1, keepdims=True) / np.float32(448)
    scale = np.vectorize(half)(exact).astype(np.float32)
    np.testing.assert_array_equal(ours.scale.numpy(), scale)
    expected = [[slow_nearest(v, table) for v in row] for row in np.clip(weight / scale, -448, 448)]
    np.testing.assert_array_equal(ours.values.view(torch.float8_e4m3fn).float().numpy(), np.array(expected, np.float32))
    np.testing.assert_array_equal(ours.dequantize().numpy(), np.array(expected, np.float32) * scale)
    tokens = [[slow_nearest(v, table) for v in row] for row in np.clip(weight / exact, -448, 448)]
    rounded = float8.per_token(torch.from_numpy(weight)).numpy()
    np.testing.assert_array_equal(rounded, np.array(tokens, np.float32) * exact)


def test_the_table_is_the_format():
    assert max(value for value, _ in numbers()) == float8.TOP == torch.finfo(torch.float8_e4m3fn).max
