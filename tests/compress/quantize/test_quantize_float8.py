"""FP8 weights and inputs."""

import pytest
import torch

from triptych.compress.quantize import activation, float8
from triptych.errors import NumericsError


def test_an_outlier_costs_its_neighbours_nothing():
    """Unlike eight-bit integers, whose step it stretches."""
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 100.0
    rest = torch.arange(256) != 7

    def lost(rounded):
        return ((rounded - x)[:, rest].square().sum() / x[:, rest].square().sum()).item()

    assert lost(float8.per_token(x)) < 0.001 < lost(activation.per_token(x))


def test_tokens_have_scales_of_their_own_and_keep_their_type():
    x = torch.tensor([[[1.0, -2.0], [1e-4, 3e-4], [0.0, 0.0]]], dtype=torch.bfloat16)
    rounded = float8.per_token(x)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, x, rtol=1 / 16, atol=0)


def test_zeros_and_nothing():
    assert float8.quantize(torch.zeros(2, 3), None).dequantize().eq(0).all()
    assert float8.quantize(torch.zeros(2, 0), None).dequantize().shape == (2, 0)


def test_nan_is_refused():
    with pytest.raises(NumericsError, match="NaN or infinity"):
        float8.quantize(torch.tensor([[1.0, torch.inf]]), None)
