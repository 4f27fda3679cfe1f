"""Grids, codes and the notes GPTQ leaves."""

import pytest
import torch
from pydantic import ValidationError

from triptych.compress.quantize import gptq, rtn
from triptych.compress.quantize.grid import Codes, Grid, output_error, search_scale
from triptych.errors import InputError, NumericsError


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def moment_of(columns, seed=1, tokens=200):
    x = matrix(tokens, columns, seed) @ matrix(columns, columns, seed + 1)
    return x.T @ x / tokens


def test_last_group_is_shorter():
    grid = Grid(bits=4, group=64)
    assert grid.groups(100) == 2
    assert grid.groups(64) == 1
    assert Grid(bits=4).groups(100) == 1
    codes = rtn.quantize(matrix(3, 100), None, grid)
    assert codes.scale.shape == (3, 2)
    assert codes.dequantize().shape == (3, 100)


def test_eight_bits_barely_change_a_matrix():
    weight = matrix(16, 100)
    for grid in (Grid(bits=8), Grid(bits=8, symmetric=False, group=32)):
        assert output_error(weight, rtn.quantize(weight, None, grid).dequantize(), None) < 1e-4


def test_gptq_moves_outputs_less_than_rounding_to_nearest():
    weight, H = matrix(32, 64), moment_of(64)
    for grid in (Grid(bits=3, group=16), Grid(bits=4, symmetric=False)):
        near, ours = rtn.quantize(weight, H, grid), gptq.quantize(weight, H, grid)
        assert output_error(weight, ours.dequantize(), H) < 0.7 * output_error(weight, near.dequantize(), H)


@pytest.mark.parametrize("method", [rtn.quantize, gptq.quantize])
@pytest.mark.parametrize("grid", [Grid(bits=2), Grid(bits=4, group=3, symmetric=False)])
def test_zeros_stay_zeros_and_constants_are_kept(method, grid):
    H = moment_of(8)
    assert method(torch.zeros(4, 8), H, grid).dequantize().eq(0).all()
    constant = method(torch.full((4, 8), 0.5), H, Grid(bits=4, symmetric=False)).dequantize()
    torch.testing.assert_close(constant, torch.full((4, 8), 0.5), atol=1e-2, rtol=0)


def test_scales_are_float16_numbers_unless_too_small():
    codes = rtn.quantize(matrix(8, 32), None, Grid(bits=4))
    assert torch.equal(codes.scale.half().float(), codes.scale)
    tiny = rtn.quantize(matrix(8, 32) * 1e-7, None, Grid(bits=4))
    assert not torch.equal(tiny.scale.half().float(), tiny.scale)
    assert output_error(matrix(8, 32) * 1e-7, tiny.dequantize(), None) < 0.02


def test_dead_columns_are_rounded_to_nearest():
    weight, H = matrix(4, 8), moment_of(8)
    H[2], H[:, 2] = 0, 0
    codes = gptq.quantize(weight, H, Grid(bits=8))
    assert codes.notes == ("1 of 8 input channels were always zero: they were rounded to the nearest",)
    assert (codes.dequantize()[:, 2] - weight[:, 2]).abs().max() <= codes.scale.max() / 2 * 1.001
    nothing = gptq.quantize(weight, torch.zeros(8, 8), Grid(bits=8), damping=1.0)
    assert torch.equal(nothing.values, rtn.quantize(weight, None, Grid(bits=8)).values)


def test_singular_moments_raise_damping_and_say_so():
    x = matrix(3, 8)  # three samples of eight inputs
    codes = gptq.quantize(matrix(4, 8), x.T @ x, Grid(bits=4), damping=0.0)
    assert codes.notes == ("the second moments are singular: damping was raised from 0 to 1e-06",)
    assert codes.dequantize().isfinite().all()


def test_wrong_moments_are_refused_by_shape():
    with pytest.raises(InputError, match=r"4 x 8 weight got second moments of shape \(7, 7\)\. Collect them"):
        gptq.quantize(matrix(4, 8), moment_of(7), Grid(bits=4))
    with pytest.raises(InputError, match="shape None"):
        gptq.quantize(matrix(4, 8), None, Grid(bits=4))
    with pytest.raises(NumericsError, match="hold NaN or infinity"):
        gptq.quantize(matrix(4, 8), moment_of(8).fill_(torch.nan), Grid(bits=4))


def test_grids_and_codes_check_themselves():
    with pytest.raises(ValidationError):
        Grid(bits=9)
    with pytest.raises(ValidationError):
        Grid(bits=4, group=0)
    values, scale = torch.zeros(2, 8, dtype=torch.int8), torch.ones(2, 2)
    with pytest.raises(InputError, match=r"shape \(2, 1\), not \(2, 2\)"):
        Codes(values, scale, None, Grid(bits=4))
    with pytest.raises(InputError, match="Zero points go with an asymmetric grid"):
        Codes(values, scale, None, Grid(bits=4, group=4, symmetric=False))


def test_size_counts_words_scales_and_zeros():
    assert Grid(bits=4, group=32).size_bytes(16, 64) == 16 * 64 // 2 + 16 * 2 * 2
    assert Grid(bits=3).size_bytes(2, 11) == 2 * 2 * 4 + 2 * 2
    assert Grid(bits=4, group=32, symmetric=False).size_bytes(16, 64) == 16 * 64 // 2 + 16 * 2 * 2 + 2 * 2 * 4


def test_scales_do_not_depend_on_the_number_of_threads():
    weight, importance = matrix(300, 512), matrix(300, 512, 1).square()
    grid = Grid(bits=4, group=64, symmetric=False)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(search_scale(weight, importance, grid))
    torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
